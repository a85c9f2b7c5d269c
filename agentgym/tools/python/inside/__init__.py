"""The programs that run inside the cage; standard library only, sent in as text (see ``..cage``).

::

    host ──frames── supervisor ──frames── keeper ──calls──> worker (runs the code)
                        │                   ▲
                        └──"slot"── zygote ─┘ forks

The supervisor routes, the zygote forks keepers (one a session or stateless call, some kept ready), each keeper owns one
worker, watches its limits and reports. A worker can neither signal, trace nor impersonate any of them.
"""
