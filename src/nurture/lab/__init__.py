"""The lab: a small invented world with an exact oracle.

How the data flows. `world.py` makes people, towns and things from a seed; `relations.py` says in English what can be
said and asked of them, `words.py` holds every other word. `corpus.py` writes the documents a base model reads:
encyclopedia entries, quizzes, workings, stories (`stories.py`), unruly talk (`dialogue.py`). Each file in `families/`
is one kind of instruction with three verbs: `examples` makes tasks with gold answers, `reward` and `grade` judge a
response. `oracle.py` grades any response to any task on helpful, honest and harmless. `answers.py` spoils gold answers
in known ways, `labellers.py` judges them with known faults, and `datasets.py` gives the results their names.

Every row is a pure function of (world seed, row seed, name, index) through `draw.py`: no row depends on another, on the
machine, or on the order in which rows are made. Nothing here imports torch for its own sake.
"""
