"""A training run: one folder, from its configuration to its last checkpoint.

``config`` and ``defaults`` are its options, ``requirements`` what it needs; ``build`` makes model, policy and learner;
``trainer`` is the loop; ``checkpoint`` and ``run_file`` keep it resumable; ``summary``, ``outlook`` and
``tensorboard`` tell how it goes; ``budgets`` limits its episodes.
"""
