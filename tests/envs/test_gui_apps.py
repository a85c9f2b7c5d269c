"""What each application does and refuses, acted on by key; and what a world does around them."""

from __future__ import annotations

import pytest

from agentgym.envs.gui.apps.calendar import Calendar
from agentgym.envs.gui.apps.directory import Directory, Person
from agentgym.envs.gui.apps.files import File, Files
from agentgym.envs.gui.apps.forms import Forms
from agentgym.envs.gui.apps.mail import Mail, Message
from agentgym.envs.gui.apps.settings import Settings, defaults
from agentgym.envs.gui.apps.shop import Article, Shop
from agentgym.envs.gui.apps.wiki import Wiki
from agentgym.envs.gui.commands import Command, done
from agentgym.envs.gui.look import Look
from agentgym.envs.gui.page import PageBackend
from agentgym.envs.gui.snapshot import whole
from agentgym.envs.gui.tasks import task
from agentgym.envs.gui.world import HINTS, World

PLAIN = Look(0, 0)


def world(*apps):
    return World(task("", apps, lambda w: done()))


def screen(w):
    """The screen with keys for ids."""
    names = {element: key for key, element in w.ids().items()}
    lines = whole(PageBackend(w).snapshot()).splitlines()
    return [" ".join([f"[{names[x.split(' ')[0]]}]", *x.split(" ")[1:]]) if x[:2] in names else x for x in lines]


def act(w, *keys):
    """Act on elements by key (``key=value`` for what is typed or chosen), which must be there; the last message."""
    for key in keys:
        key, _, value = key.partition("=")
        shown = {widget.key: widget for widget in w.render().shown()}
        assert key in shown, (key, list(shown))
        assert "disabled" not in shown[key].states
        w.act(key, value)
    return w.state.note or w.state.problem


# ---- mail


@pytest.fixture
def mail():
    messages = [
        Message("Ada", "budget", "How much is left?", unread=True),
        Message("Bela", "picnic", "On Sunday."),
        Message("Carl", "keys", "I have them.", "Work"),
    ]
    return world(Mail(PLAIN, messages, ["a.pdf"]))


def test_mail(mail):
    assert screen(mail) == [
        "Mail: Inbox",
        "[go:folder:Work] link Work",
        "[go:folder:Private] link Private",
        "[go:folder:Later] link Later",
        "[go:folder:Bin] link Bin",
        '[field:query] textbox Search: ""',
        "[search] button Search [Enter]",
        "[go:write:] button Write",
        "[open:0] link Ada: budget, unread",
        "[open:1] link Bela: picnic",
    ]
    act(mail, "open:0")
    assert screen(mail)[6:] == [
        "text From Ada",
        "text How much is left?",
        "[go:reply:0] button Reply",
        "[go:forward:0] button Forward",
        "[star:0] checkbox Starred",
        '[move:0] combobox Folder: "Inbox" of Inbox, Work, Private, Later, Bin',
        "[delete:0] button Delete",
    ]
    assert act(mail, "move:0=Later") == "Moved to Later."
    act(mail, "star:0", "go:folder:Later")
    assert screen(mail)[-1] == "[open:0] link Ada: budget"
    assert act(mail, "open:0", "delete:0") == "Moved to Bin."
    assert mail.state.route == "folder:Later"
    assert mail.state.data == {"folder": ["Bin", "Inbox", "Work"], "starred": [True, False, False], "sent": []}


def test_mail_searches_all_folders(mail):
    assert act(mail, "search") == "Type what to look for."
    act(mail, "field:query=KEY", "search")
    assert screen(mail)[0] == "Mail: Search KEY"
    assert screen(mail)[-1] == "[open:2] link Carl: keys"
    act(mail, "field:query=nothing", "search")
    assert screen(mail)[-1] == "text No mail."


def test_letters(mail):
    act(mail, "open:0", "go:reply:0")
    assert screen(mail) == [
        "Mail: Reply",
        '[field:to] textbox To: "Ada"',
        '[field:subject] textbox Subject: "Re: budget"',
        '[field:text] textbox Text: ""',
        '[field:attach] combobox Attachment: "none" of none, a.pdf',
        "[send] button Send",
        "[go:folder:Inbox] button Cancel",
    ]
    assert act(mail, "send") == "Text is empty."
    assert act(mail, "field:text=Enough.", "field:to=", "send") == "To is empty."
    assert act(mail, "field:to=Nobody", "send") == "To: nobody is called so."
    assert act(mail, "field:to=Dora", "field:attach=a.pdf", "send") == "Sent to Dora."
    act(mail, "open:1", "go:forward:1", "field:to=Emil", "send")
    assert mail.state.data["sent"] == [
        {"to": "Dora", "subject": "Re: budget", "text": "Enough.", "attach": "a.pdf"},
        {"to": "Emil", "subject": "Fwd: picnic", "text": "On Sunday.", "attach": "none"},
    ]


# ---- calendar


@pytest.fixture
def calendar():
    return world(Calendar(PLAIN, {"Monday 9:00": ("Choir", True), "Monday 10:00": ("Dentist", False)}))


def test_calendar(calendar):
    assert screen(calendar)[6:] == [
        "[go:event:Monday 9:00] link 9:00 Choir, Every week",
        "[go:event:Monday 10:00] link 10:00 Dentist",
        "[go:new:Monday] button New event",
    ]
    act(calendar, "go:event:Monday 10:00")
    assert screen(calendar) == [
        "Calendar: Dentist",
        '[field:title] textbox Title: "Dentist"',
        '[field:day] combobox Day: "Monday" of Monday, Tuesday, Wednesday, Thursday, Friday',
        '[field:time] textbox Time: "10:00"',
        "[weekly] checkbox Every week",
        "[save] button Save",
        "[go:day:Monday] button Cancel",
        "[ask] button Delete",
    ]
    assert act(calendar, "field:time=10:30", "save") == "Time must be a full hour from 9:00 to 17:00."
    assert act(calendar, "field:time=9:00", "save") == "Choir is at that time."
    assert act(calendar, "field:title=", "save") == "Title is empty."
    assert act(calendar, "field:title=Dentist", "field:day=Friday", "weekly", "save") == "Dentist: Friday 9:00."
    assert calendar.state.data == {"Monday 9:00": ["Choir", True], "Friday 9:00": ["Dentist", True]}
    assert screen(calendar)[-2:] == [
        "[go:event:Friday 9:00] link 9:00 Dentist, Every week",
        "[go:new:Friday] button New event",
    ]


def test_an_event_that_is_deleted_cannot_be_gone_back_to(calendar):
    act(calendar, "go:event:Monday 9:00", "ask")
    assert screen(calendar) == [
        "dialog Delete this event?",
        "[delete] button OK [Enter]",
        "[dismiss] button Cancel [Escape]",
    ]
    act(calendar, "dismiss")
    assert act(calendar, "ask", "delete") == "Choir is deleted."
    calendar.back()
    assert calendar.state.route == "day:Monday"
    assert calendar.state.data == {"Monday 10:00": ["Dentist", False]}


def test_saving_an_event_where_it_is_changes_nothing(calendar):
    before = calendar.state.data | {}
    act(calendar, "go:event:Monday 9:00", "weekly", "weekly", "save")
    assert calendar.state.data == before


# ---- files


@pytest.fixture
def files():
    listed = {"b.txt": File("Home", 5, 1), "a.pdf": File("Home", 9, 3), "c.tmp": File("Photos", 7, 2)}
    return world(Files(PLAIN, listed))


def test_files(files):
    assert screen(files) == [
        "Files: Home",
        "[go:folder:Photos] link Photos",
        '[field:sort] combobox Sort by: "name" of name, size, age',
        "[ask:rename] button Rename (disabled)",
        "[ask:delete] button Delete (disabled)",
        "[ask:folder] button New folder",
        "[tick:a.pdf] checkbox a.pdf, 9 KB, 3 days",
        "[tick:b.txt] checkbox b.txt, 5 KB, 1 days",
    ]
    act(files, "tick:a.pdf", "tick:b.txt")
    assert screen(files)[3:7] == [
        "[ask:rename] button Rename (disabled)",
        "[ask:delete] button Delete",
        "[ask:folder] button New folder",
        '[move] combobox Move to: "choose" of choose, Photos',
    ]
    assert act(files, "move=choose") == ""
    assert act(files, "move=Photos") == "2 files moved to Photos."
    act(files, "go:folder:Photos", "field:sort=size")
    assert [x.split(" ")[0] for x in screen(files)[-3:]] == ["[tick:a.pdf]", "[tick:c.tmp]", "[tick:b.txt]"]
    act(files, "field:sort=age")
    assert [x.split(" ")[0] for x in screen(files)[-3:]] == ["[tick:a.pdf]", "[tick:c.tmp]", "[tick:b.txt]"]
    assert act(files, "tick:c.tmp", "ask:delete", "delete") == "1 file deleted."
    assert files.state.data == {"in": {"b.txt": "Photos", "a.pdf": "Photos"}, "folders": ["Home", "Photos"], "as": {}}


def test_files_are_renamed(files):
    act(files, "tick:a.pdf", "ask:rename")
    assert screen(files)[:2] == ["dialog Rename", '[field:name] textbox Name: "a.pdf"']
    assert act(files, "field:name=", "rename") == "A file needs a name."
    assert act(files, "field:name=c.tmp", "rename") == "c.tmp exists already."
    assert act(files, "field:name=d.pdf", "rename") == "a.pdf is now d.pdf."
    assert files.state.data["as"] == {"d.pdf": "a.pdf"}
    assert "[tick:d.pdf] checkbox d.pdf, 9 KB, 3 days" in screen(files)
    act(files, "tick:d.pdf", "ask:rename", "field:name=a.pdf", "rename")
    assert files.state.data == files.task.apps["files"].data()


def test_folders_are_made(files):
    assert act(files, "ask:folder", "folder") == "A folder needs a name."
    assert act(files, "field:name=Home", "folder") == "Home exists already."
    assert act(files, "field:name=Taxes", "folder") == "Taxes is made."
    assert files.state.data["folders"] == ["Home", "Photos", "Taxes"]
    assert "[go:folder:Taxes] link Taxes" in screen(files)


# ---- shop


@pytest.fixture
def shop():
    articles = [Article("Alba shirt", 20, ("small", "large"), ("red", "blue")), Article("Kite mug", 7, (), ("white",))]
    return world(Shop(PLAIN, articles, {"SPRING": 10}))


def test_shop(shop):
    assert screen(shop) == [
        "Shop",
        "[go:basket] link Basket, 0",
        '[field:kind] combobox Kind: "all" of all, mug, shirt',
        "[go:article:Alba shirt] link Alba shirt, 20 euros",
        "[go:article:Kite mug] link Kite mug, 7 euros",
    ]
    act(shop, "field:kind=shirt")
    assert len(screen(shop)) == 4
    assert act(shop, "go:article:Alba shirt", "field:size=large", "field:count=3", "add") == (
        "3 x Alba shirt, large, red added."
    )
    assert act(shop, "field:count=4", "add") == "4 x Alba shirt, large, red added."
    act(shop, "go:shop", "go:article:Kite mug", "add", "go:basket")
    assert screen(shop) == [
        "Shop: Basket",
        "[go:shop] link Shop",
        '[count:Alba shirt, large, red] combobox Quantity: Alba shirt, large, red: "7" of 1, 2, 3, 4, 5, 7',
        "[drop:Alba shirt, large, red] button Remove Alba shirt, large, red",
        '[count:Kite mug, white] combobox Quantity: Kite mug, white: "1" of 1, 2, 3, 4, 5',
        "[drop:Kite mug, white] button Remove Kite mug, white",
        "text Total: 147 euros",
        '[field:coupon] textbox Coupon: ""',
        "[apply] button Apply coupon [Enter]",
        "[go:checkout] button Checkout",
    ]
    assert act(shop, "field:coupon=AUTUMN", "apply") == "AUTUMN is no coupon."
    assert act(shop, "field:coupon=SPRING", "apply") == "10 percent off."
    act(shop, "count:Alba shirt, large, red=1")
    assert "text Total: 24.30 euros" in screen(shop)
    act(shop, "drop:Kite mug, white", "go:checkout", "field:to=office", "field:way=express")
    assert act(shop, "order") == "Thank you for your order."
    assert shop.state.data == {
        "basket": {},
        "coupon": "",
        "orders": [
            {"basket": {"Alba shirt, large, red": 1}, "coupon": "SPRING", "to": "office", "way": "express"},
        ],
    }


def test_nothing_is_ordered_from_an_empty_basket(shop):
    act(shop, "go:basket")
    assert screen(shop)[2:4] == ["text Nothing in it.", '[field:coupon] textbox Coupon: ""']
    assert "[go:checkout] button Checkout (disabled)" in screen(shop)
    assert act(shop, "apply") == "No coupon."


# ---- directory


@pytest.fixture
def directory():
    people = [
        Person(name, team, city, str(10500 + i), f"room {i + 20}")
        for i, (name, team, city) in enumerate(
            [("Ada", "Sales", "Oslo"), ("Bela", "Sales", "Rome"), ("Carl", "Design", "Oslo")]
            + [(name, "Support", "Lima") for name in ("Dora", "Emil", "Fay", "Gus", "Hana", "Igor", "Jana", "Karl")]
        )
    ]
    return world(Directory(PLAIN, people))


def test_directory(directory):
    act(directory, "field:team=Sales")
    assert screen(directory)[5:] == ["text 2 found", "[go:person:Ada] link Ada", "[go:person:Bela] link Bela"]
    act(directory, "field:city=Rome", "go:person:Bela", "mark:Bela")
    assert screen(directory) == [
        "Directory: Bela",
        "text Team: Sales",
        "text City: Rome",
        "text Phone: 10501",
        "text Room: room 21",
        "[mark:Bela] checkbox Favourite (checked)",
        "[go:list] link Everybody",
    ]
    assert [name for name, marked in directory.state.data["marked"].items() if marked] == ["Bela"]


def test_people_are_found_by_what_is_known_of_them(directory):
    act(directory, "field:query=10502", "search")
    assert screen(directory)[5:] == ["text 1 found", "[go:person:Carl] link Carl"]
    act(directory, "field:query=nobody", "search")
    assert screen(directory)[5:] == ["text 0 found"]


def test_a_list_with_a_window_is_scrolled(directory):
    def shown():
        return [x.split(" ")[-1] for x in screen(directory) if x.startswith("[go:person")]

    def scroll(direction):
        before = PageBackend(directory).snapshot()
        assert before.up if direction == "up" else before.down
        directory.perform(Command("scroll", "", direction))

    assert shown() == ["Ada", "Bela", "Carl", "Dora", "Emil", "Fay"]
    assert screen(directory)[-1] == "scroll: down"
    scroll("down")
    assert shown() == ["Fay", "Gus", "Hana", "Igor", "Jana", "Karl"]
    assert screen(directory)[-1] == "scroll: up"
    act(directory, "field:team=Support")
    assert shown() == ["Fay", "Gus", "Hana", "Igor", "Jana", "Karl"]
    scroll("up")
    assert shown()[0] == "Dora"
    act(directory, "field:team=Sales")
    assert screen(directory)[-1] == "[go:person:Bela] link Bela"
    assert directory.state.top == 0


def test_what_is_scrolled_away_is_not_on_the_screen(directory):
    backend = PageBackend(directory)
    ids = directory.ids()
    assert ids["go:person:Ada"] in backend.snapshot().elements
    assert ids["go:person:Karl"] not in backend.snapshot().elements
    backend.perform(Command("scroll", "", "down"))
    assert directory.ids() == ids
    assert ids["go:person:Ada"] not in backend.snapshot().elements
    assert ids["go:person:Karl"] in backend.snapshot().elements


# ---- forms


def test_forms():
    w = world(Forms(PLAIN, "club"))
    assert screen(w) == [
        "Forms: club",
        '[field:name] textbox Name *: ""',
        '[field:email] textbox Email *: ""',
        '[field:phone] textbox Phone: ""',
        '[field:membership] combobox Membership: "single" of single, family, student',
        "[tick:newsletter] checkbox Newsletter",
        "[tick:rules] checkbox I accept the rules *",
        "[send] button Send",
        "[go:sent] link Sent entries, 0",
    ]
    assert act(w, "send") == "Name is required."
    assert screen(w)[2:4] == [
        '[field:name] textbox Name *: "" (invalid)',
        '[field:email] textbox Email *: "" (invalid)',
    ]
    assert act(w, "field:name=Ada", "field:email=ada", "send") == "Email must be like ada@post.example."
    assert act(w, "field:email=ada@post.example", "field:phone=12 3", "send") == (
        "Phone must have at least 5 digits and nothing else."
    )
    assert act(w, "field:phone=", "send") == "I accept the rules is required."
    assert act(w, "tick:rules", "tick:newsletter", "tick:newsletter", "send") == "Sent. Thank you."
    entry = {
        "name": "Ada",
        "email": "ada@post.example",
        "phone": "",
        "membership": "single",
        "newsletter": False,
        "rules": True,
    }
    assert w.state.data == {"entries": [entry]}
    act(w, "go:entry:0")
    assert "text Newsletter: no" in screen(w)
    assert "text Phone: none" in screen(w)
    assert act(w, "go:edit:0", "tick:rules", "send") == "I accept the rules is required."
    assert act(w, "tick:rules", "field:phone=12345", "send") == "Saved."
    assert w.state.data == {"entries": [entry | {"phone": "12345"}]}
    assert act(w, "go:entry:0", "ask", "withdraw") == "Withdrawn."
    w.back()
    assert w.state.route == "sent"
    assert w.state.data == {"entries": []}


def test_a_form_on_two_pages():
    w = world(Forms(PLAIN, "trip"))
    assert act(w, "page") == "Name is required."
    assert act(w, "field:name=Ada", "field:seats=0", "page") == "Seats must be a number from 1 to 9."
    act(w, "field:seats=2", "page")
    assert screen(w)[:2] == ["Forms: trip, page 2", '[field:email] textbox Email *: ""']
    assert act(w, "send") == "Email is required."
    act(w, "page")
    assert screen(w)[1] == '[field:name] textbox Name *: "Ada"'
    assert act(w, "page", "field:email=a@b.c", "tick:rules", "send") == "Sent. Thank you."


# ---- settings


def test_settings_are_reset_one_tab_at_a_time():
    values = {
        name: not value
        for here in ("General", "Privacy", "Notifications", "Display")
        for name, value in defaults(here).items()
        if isinstance(value, bool)
    }
    values |= {"Language": "French", "Lock after": "1 hour", "Quiet hours": "always", "Theme": "Sand"}
    w = world(Settings(PLAIN, values, "Phone"))
    act(w, "tab:Display", "ask:reset", "reset")
    assert w.state.data["values"] == values | defaults("Display")
    assert not w.state.past
    assert act(w, "ask:rename", "field:device=", "rename") == "A device needs a name."
    assert act(w, "field:device=Radio", "rename") == "Renamed."
    assert w.state.data["device"] == "Radio"


# ---- wiki


@pytest.fixture
def wiki():
    pages = {"Elm Town": {"mayor": "Ada"}, "Fox Lake": {"depth": "40 m", "town": "Elm Town"}}
    return world(Wiki(PLAIN, pages, {"Fox Lake": [{"depth": "30 m", "town": "Elm Town"}]}))


def test_wiki(wiki):
    act(wiki, "go:page:Fox Lake")
    assert screen(wiki) == [
        "Wiki: Fox Lake",
        "[go:list] link All pages",
        "text depth: 40 m",
        "[go:page:Elm Town] link town: Elm Town",
        "[go:edit:Fox Lake] button Edit",
        "[go:history:Fox Lake] button History",
        "[ask] button Rename page",
        "[erase:Fox Lake] button Delete",
    ]
    assert act(wiki, "go:edit:Fox Lake", "field:depth=", "save") == "depth is empty."
    assert act(wiki, "field:depth=50 m", "save") == "Saved."
    act(wiki, "go:history:Fox Lake")
    assert screen(wiki)[1:3] == [
        "[restore:0] button Restore version 1: depth 30 m",
        "[restore:1] button Restore version 2: depth 40 m",
    ]
    assert act(wiki, "restore:0") == "Restored."
    assert wiki.state.data["Fox Lake"]["depth"] == "30 m"
    assert [old["depth"] for old in wiki.state.memory["Fox Lake"]] == ["30 m", "40 m", "50 m"]


def test_wiki_pages_are_written_renamed_and_deleted(wiki):
    assert act(wiki, "go:write:", "save") == "Title is empty."
    assert act(wiki, "field:title=Fox Lake", "field:text=Hm", "save") == "Fox Lake exists already."
    assert act(wiki, "field:title=Mill", "save") == "Saved."
    assert wiki.state.data["Mill"] == {"text": "Hm"}
    assert act(wiki, "ask", "field:title=", "rename") == "Title is empty."
    assert act(wiki, "field:title=Elm Town", "rename") == "Elm Town exists already."
    assert act(wiki, "field:title=Old Mill", "rename") == "Mill is now Old Mill."
    assert act(wiki, "erase:Old Mill") == "Old Mill is deleted."
    wiki.back()
    assert wiki.state.route == "list"
    act(wiki, "go:page:Fox Lake", "ask", "field:title=Owl Lake", "rename")
    assert [old["depth"] for old in wiki.state.memory["Owl Lake"]] == ["30 m"]
    assert set(wiki.state.data) == {"Elm Town", "Owl Lake"}


def test_wiki_searches_titles(wiki):
    assert act(wiki, "search") == "Type what to look for."
    act(wiki, "field:query=fox", "search")
    assert screen(wiki)[0] == "Wiki: Search fox"
    assert screen(wiki)[-1] == "[go:page:Fox Lake] link Fox Lake"


# ---- a world of several applications


def test_tabs_and_histories(mail, wiki):
    w = world(mail.task.apps["mail"], wiki.task.apps["wiki"])
    assert screen(w)[:2] == ["Mail: Inbox", "tabs: mail (here)"]
    act(w, "open:0")
    w.perform(Command("open_tab", "", "wiki"))
    assert screen(w)[:2] == ["Wiki", "tabs: mail, wiki (here)"]
    assert not PageBackend(w).snapshot().back
    act(w, "go:page:Fox Lake", "go:page:Elm Town")
    w.perform(Command("back"))
    assert w.state.route == "page:Fox Lake"
    w.perform(Command("switch_tab", "", "mail"))
    assert w.state.route == "message:0"
    w.perform(Command("back"))
    assert screen(w)[:2] == ["Mail: Inbox", "tabs: mail (here), wiki"]
    assert w.states["wiki"].route == "page:Fox Lake"


def test_a_draft_is_dropped_with_its_page(mail):
    act(mail, "go:write:", "field:text=Hello")
    assert '[field:text] textbox Text: "Hello"' in screen(mail)
    mail.perform(Command("back"))
    act(mail, "go:write:")
    assert '[field:text] textbox Text: ""' in screen(mail)


def test_keys_click_what_shows_them(calendar):
    act(calendar, "go:event:Monday 9:00", "ask")
    calendar.perform(Command("press", "", "Escape"))
    assert not calendar.state.dialog
    act(calendar, "ask")
    calendar.perform(Command("press", "", "Enter"))
    assert "Monday 9:00" not in calendar.state.data


def test_ids_stay_while_a_page_changes_around_them(files):
    before = files.ids()
    act(files, "tick:a.pdf")
    after = files.ids()
    assert {key: after[key] for key in before} == before
    assert len(set(after.values())) == len(after) == len(before) + 1


def test_two_keys_with_one_hash_have_two_ids(files, monkeypatch):
    monkeypatch.setattr("agentgym.envs.gui.world.zlib.crc32", lambda key, salt: 0)
    files._changing()
    files.task.hints.clear()
    assert list(files.ids().values()) == list(HINTS[: len(files.ids())])


def test_ids_differ_between_tasks():
    from agentgym.envs.gui import tasks

    ids = [World(tasks.build("train", n, ("settings",))).ids()["tab:Privacy"] for n in range(20)]
    assert len(set(ids)) > 10


def test_two_ways_to_a_page_are_two_states_where_back_leads_to_two_pages(mail):
    other = mail.copy()
    act(mail, "open:0")
    act(other, "field:query=ada", "search", "open:0")
    assert screen(mail) == screen(other)
    assert mail.code() != other.code()


def test_a_page_is_shown_from_its_top(directory):
    directory.scroll("down")
    act(directory, "go:person:Karl", "go:list")
    assert "[go:person:Ada] link Ada" in screen(directory)
    directory.scroll("down")
    act(directory, "go:person:Karl")
    directory.back()
    assert "[go:person:Ada] link Ada" in screen(directory)


def test_a_state_is_the_same_whether_it_was_looked_at_or_not(directory):
    directory.scroll("down")
    seen = directory.copy()
    screen(seen)
    assert directory.code() == seen.code()
