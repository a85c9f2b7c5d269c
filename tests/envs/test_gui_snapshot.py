"""What an agent is told of a screen, on screens made by hand."""

from __future__ import annotations

import pytest

from agentgym.envs.gui.snapshot import changes, possible, snapshot, whole
from agentgym.envs.gui.widgets import alert, button, checkbox, combobox, link, status, tab, text, textbox

FRUIT = [(f"f{i}", link(f"go:{name}", name)) for i, name in enumerate(["apple", "cherry", "fig", "grape", "lemon"])]


def page(*shown, **more):
    return snapshot("Fruit", [*shown], **more)


def test_every_role_as_a_line():
    shown = [
        ("", status("Saved.")),
        ("", alert("It is empty.")),
        ("", text("Total: 3")),
        ("bb", button("save", "Save", shortcut="Enter")),
        ("bc", button("undo", "Undo", off=True)),
        ("bd", link("go", "Home")),
        ("bf", tab("tab:a", "First", selected=True)),
        ("bg", tab("tab:b", "Second", selected=False)),
        ("bh", textbox("field:a", "Email", "ada", invalid=True)),
        ("bj", checkbox("tick:a", "News", checked=True)),
        ("bk", combobox("field:b", "Size", "M", ("S", "M"))),
    ]
    assert whole(page(*shown)).splitlines() == [
        "Fruit",
        "status Saved.",
        "alert It is empty.",
        "text Total: 3",
        "bb button Save [Enter]",
        "bc button Undo (disabled)",
        "bd link Home",
        "bf tab First (selected)",
        "bg tab Second",
        'bh textbox Email: "ada" (invalid)',
        "bj checkbox News (checked)",
        'bk combobox Size: "M" of S, M',
    ]


def test_lists_tabs_and_dialogs_as_lines():
    now = page(FRUIT[0], here="mail", tabs=("mail", "shop"), apps=("mail", "shop", "wiki"), up=True, down=True)
    assert whole(now) == "Fruit\ntabs: mail (here), shop\nf0 link apple\nscroll: up, down"
    assert whole(page(FRUIT[0], up=True)).endswith("\nscroll: up")
    assert whole(page(FRUIT[0], down=True)).endswith("\nscroll: down")
    assert whole(page(FRUIT[0], here="mail", tabs=("mail",), apps=("mail",))) == "Fruit\nf0 link apple"
    assert whole(page(FRUIT[0], dialog="Sure?")) == "dialog Sure?\nf0 link apple"


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (FRUIT, FRUIT, ""),
        (FRUIT, [*FRUIT[:2], ("f2", link("go:fig", "figs")), *FRUIT[3:]], "f2 link figs"),
        (FRUIT, [FRUIT[0], *FRUIT[2:]], "gone: f1"),
        (FRUIT, [*FRUIT[:3], ("f9", link("go:kiwi", "kiwi")), *FRUIT[3:]], "f9 link kiwi"),
        ([*FRUIT, ("", text("5 found"))], [*FRUIT[1:], ("", text("4 found"))], "text 4 found\ngone: f0, text 5 found"),
        (FRUIT, [("", status("Saved.")), *FRUIT], "status Saved."),
        ([("", status("Saved.")), *FRUIT], [("", status("Saved.")), *FRUIT], "status Saved."),
        ([("", status("Saved.")), *FRUIT], FRUIT, ""),
    ],
)
def test_what_has_changed(before, now, told):
    assert changes(page(*before), page(*now)) == told


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (FRUIT, FRUIT[::-1]),
        (FRUIT, [*FRUIT[1:], FRUIT[0]]),
        (FRUIT, [FRUIT[2], FRUIT[0], FRUIT[3], FRUIT[4]]),
        (FRUIT[:1], FRUIT),
        (FRUIT, FRUIT[:2]),
    ],
)
def test_everything_is_shown_where_the_order_or_the_most_of_it_is_new(before, now):
    assert changes(page(*before), page(*now)) is None


def test_what_can_be_done():
    now = page(
        ("bb", button("save", "Save", shortcut="Enter")),
        ("bc", button("undo", "Undo", off=True, shortcut="Escape")),
        ("bd", textbox("field:a", "Email", "ada")),
        ("bf", checkbox("tick:a", "News", checked=True)),
        ("bg", combobox("field:b", "Size", "M", ("S", "M", 'L "x"'))),
        ("", text("Total")),
        up=True,
        down=True,
        back=True,
        here="mail",
        tabs=("mail", "shop"),
        apps=("mail", "shop", "wiki"),
    )
    assert possible(now, ["ada", 'say "hi"']) == [
        "click(bb)",
        'type(bd, "say \\"hi\\"")',
        "check(bf)",
        'select(bg, "S")',
        'select(bg, "L \\"x\\"")',
        "press(Enter)",
        "scroll(up)",
        "scroll(down)",
        "back",
        "switch_tab(shop)",
        "open_tab(wiki)",
    ]
