"""Learning, one file a stage: from episodes to an updated policy.

::

    turns.py      what every numeric stage reads: one row per turn, and the type of a part
    anchors.py    which turns met the same state: similar texts as one anchor  numpy [turns]
    rewards.py    what the environment paid -> what is learned from            numpy [turns]
    credit.py     reward -> advantage of each turn                             numpy [turns]
    weights.py    weights and masks of turns and tokens                        numpy [turns], torch [tokens]
    tokens.py     what every token stage reads: one entry per action token
    surrogate.py  ratio x bound x shape -> loss per token                      torch [tokens]
    penalties.py  KL, entropy, likelihood, value: more loss per token          torch [tokens]
    aggregate.py  weights -> one coefficient per token; loss = sum(coefficient x loss per token)
    control.py    parameters over time

Stage files import the two tables (``turns``, ``tokens``) and the core, never each other; a recipe joins them. The
numeric stages need numpy only; the token stages take torch tensors but none of them imports torch.
"""
