"""What is played, and what of it is learned from.

``tasks`` chooses the tasks of an update; ``branching`` says how the episodes of a group come about, by the rules of
``branching_rules``; ``contexts`` says what the policy sees; ``selection`` keeps or drops groups.
"""
