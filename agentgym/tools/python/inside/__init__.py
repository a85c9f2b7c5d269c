"""The programs that run inside the cage; standard library only, sent in as text (see ``..cage``).

::

    host ──frames── supervisor ──frames── keeper ─────calls────> worker (runs the code)
                        │                  ▲  └─orders─ nursery ──┘ forks
                        └──"slot"── zygote ┘ forks

The supervisor routes, the zygote forks keepers (one a cell, some kept ready), each keeper owns one worker, watches its
limits and reports. Its nursery, which like the zygote never sees code or data, forks the worker, and after a stateless
call clears the cell and forks the next one. A worker can neither signal, trace nor impersonate any of them.
"""
