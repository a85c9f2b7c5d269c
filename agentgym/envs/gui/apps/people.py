"""Names that several applications use."""

from __future__ import annotations

NAMES = (
    *(
        "Ada",
        "Bela",
        "Carl",
        "Dora",
        "Emil",
        "Fay",
        "Gus",
        "Hana",
        "Igor",
        "Jana",
        "Karl",
        "Lea",
        "Milo",
        "Nora",
        "Otto",
    ),
    *("Pia", "Rosa", "Sven", "Tara", "Uma", "Vera", "Walt", "Yara", "Zeno"),
)
