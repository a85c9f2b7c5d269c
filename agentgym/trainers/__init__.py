"""Learning, one room a stage: from episodes to an updated policy.

::

    algorithm.py     one value a stage; GRPO is the default everywhere
    parts.py         what fills a stage: typed decorators, and how parts are found; arguments.py: their arguments
    expressions.py   parts as text
    algorithms/      one published method a file
    sampling/        which tasks, how groups branch, what the policy sees, which groups are learned from
    rewards/         what the environment paid -> what is learned from               numpy [turns]
    advantage/       where is credit: reward -> advantage of each turn               numpy [turns]
    loss/            where is the loss: tokens -> loss per token -> one number       torch [tokens]
    prefix_tree/     rows that share prefixes are computed once
    update/          episodes in, new weights out
    sft/             supervised fine-tuning on expert episodes
    run/             a run: configuration, the loop, checkpoints, logging

Data flows downwards in this picture and never back: task -> rollout -> record -> turn table -> advantage -> prefix tree
-> loss -> update. The stage rooms need no torch at import; ``advantage`` and ``rewards`` need numpy only.
"""
