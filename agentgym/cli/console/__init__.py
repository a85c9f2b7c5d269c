"""What the commands share; every file beside this folder is a command.

Reading a command line: ``arguments`` (environments, policies, ``key=value``), ``options`` (of a training), ``players``
(policies that play by themselves), ``sandbox`` (where a model's Python code runs), ``completion`` (for the Tab key).
Writing to a terminal: ``printing`` (tables, text that cannot harm it), ``live`` (progress), ``screen`` and ``results``
(the table of an evaluation). ``new_env`` holds the files that `agentgym new-env` fills in.
"""
