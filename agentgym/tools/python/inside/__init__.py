"""The programs that run inside the sandbox; standard library only, sent in as text (see ``..sandbox_process``).

::

    host ──frames── supervisor ──frames── monitor ─────calls────────> worker (runs the code)
                        │                  ▲  └─orders─ fork server ──┘ forks
                        └─"worker slot"─ monitor fork server ┘ forks

The supervisor routes. The monitor fork server forks monitors, one for each worker slot, and some are kept ready. Each
monitor owns one worker, watches its limits and reports. Its fork server forks the worker, and after a stateless call
clears the worker slot and forks the next one; like the monitor fork server it never sees code or data. A worker can
neither signal, trace nor impersonate any of them.
"""
