"""Learning, one file a stage: from episodes to an updated policy.

::

    the run       train.py          warm start, then rollout and update in turn; recorded, resumable to the byte
                  config.py         everything that decides a run, checked before it starts
                  defaults.py       its options whose default depends on the model
                  recorded.py       what run.yaml records; checkpoint.py: what a checkpoint keeps
                  budgets.py        what its episodes may use
                  requirements.py   what an algorithm needs from an environment
                  imitation.py      the warm start; demonstrations.py: episodes that nobody sampled as training data
                  summary.py        episodes in figures; board.py: these for TensorBoard
                  outlook.py        how long the run takes, and why it learns nothing
    algorithms    recipes/          named algorithms, one short file a paper
                  algorithm.py      one value per stage; parts.py: slots filled by name
    the stages    sampling.py       which tasks; which groups are learned from
                  branching.py      how the episodes of a group come about; branching_rules.py: how they decide
                  contexts.py       what the policy sees                                 tokens
                  rewards.py        what the environment paid -> what is learned from    numpy [turns]
                  credit.py         reward -> advantage of each turn                     numpy [turns]
                  anchors.py        credit: which turns met the same state
                  branches.py       credit on trees of episodes
                  calls.py          credit for when tools are called
                  information.py    credit from the policy's belief in the answer
                  weights.py        how much a turn or a token counts                    numpy [turns], torch [tokens]
                  surrogate.py      ratio x bound x shape -> loss per token              torch [tokens]
                  penalties.py      KL, entropy, value: more loss per token              torch [tokens]
                  aggregate.py      weights -> one coefficient per token                 torch [tokens]
    the tables    turns.py          one row per turn, and the type of a part; evidence.py: columns of search
                  tokens.py         one entry per action token, and the type of a term
    the update    learner.py        episodes in, new weights out
                  batch.py          tokens of an update as columns, and its optimiser steps
                  rows.py           episodes as rows of the token tree
                  tree.py           equal prefixes are computed once
                  scoring.py        the tree through a model
                  attention.py      what a layer sees in a tree, and on kept keys and values
                  admission.py      whether a model samples and scores as it computes
                  beliefs.py        how much the policy believes the accepted answers
                  optim.py          AdamW and Muon (muon.py); memory.py: where their tensors lie
                  precision.py      bfloat16 for what is computed, float32 for what is learned
                  figures.py        what an update says about itself
    the policy    model.py          Hugging Face models, loaded by name and as policies; lora.py: adapters
                  tiny.py           the model that is built on the spot
                  chat.py           texts to tokens and back, append-only
                  generation.py     continuous batching over kept keys and values; kept_keys.py: where they live
                  engine_thread.py  one thread that drives it for requests from everywhere
                  serving.py        a model behind vLLM's wire format

Stage files import the two tables (``turns``, ``tokens``) and the core, never each other; a recipe joins them. The
numeric stages need numpy only; the token stages take torch tensors but none of them imports torch.
"""
