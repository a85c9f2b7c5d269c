"""A shop: a catalogue by kind, articles with options, a basket, coupons, and the way to an order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agentgym.envs.gui.app import App, Data, State
from agentgym.envs.gui.commands import Command, click, select, type_in
from agentgym.envs.gui.look import Look
from agentgym.envs.gui.tasks import Task, single, template
from agentgym.envs.gui.widgets import Screen, Widget, Zone, button, combobox, link, text, textbox
from agentgym.keyed_random import Dice

KINDS = ("shirt", "mug", "lamp", "bag", "notebook", "blanket", "poster", "cap")
BRANDS = ("Alba", "Brisk", "Corvo", "Delta", "Ember", "Fjord", "Gala", "Halo", "Iris", "Juno", "Kite", "Luna")
COLOURS = ("black", "blue", "green", "red", "white", "yellow")
SIZES = ("small", "medium", "large")
COUNTS = ("1", "2", "3", "4", "5")
COUPONS = ("SPRING", "WELCOME", "THANKS", "FRIENDS", "EARLY", "SUNDAY")
PLACES = ("home", "office", "shop")
WAYS = ("standard", "express")
Counts = Mapping[str, int]


class Article(NamedTuple):
    """Something to buy; only some have sizes."""

    name: str
    price: int
    sizes: tuple[str, ...]
    colours: tuple[str, ...]


class Shop(App):
    """One person's visit to a shop.

    A basket is how many by ``"ARTICLE, SIZE, COLOUR"``; an article without sizes has ``"ARTICLE, COLOUR"``.

    Args:
        look: how it is worded and arranged.
        articles: what can be bought.
        coupons: what each takes off, in percent.
        basket: what is in the basket before.
    """

    name = "shop"
    home = "shop"
    permutable_names = (KINDS, BRANDS, COLOURS, COUPONS)
    window = 6
    rows = ("go:article:",)
    words = {
        "kind": ("Kind", "Category", "Sort of article"),
        "size": ("Size", "Fit", "How big"),
        "colour": ("Colour", "Colour choice", "Shade"),
        "count": ("Quantity", "How many", "Number"),
        "add": ("Add to basket", "Put into basket", "Take it"),
        "basket": ("Basket", "Cart", "What you took"),
        "shop": ("Shop", "All articles", "Look around"),
        "coupon": ("Coupon", "Code", "Voucher"),
        "apply": ("Apply coupon", "Use code", "Redeem"),
        "checkout": ("Checkout", "Go to checkout", "To the till"),
        "to": ("Deliver to", "Address", "Bring it to"),
        "way": ("Delivery", "Shipping", "How fast"),
        "order": ("Place order", "Order now", "Buy"),
        "drop": ("Remove", "Take out", "Drop"),
    }

    def __init__(
        self, look: Look, articles: Sequence[Article], coupons: Counts | None = None, basket: Counts | None = None
    ) -> None:
        super().__init__(look)
        self.articles = {a.name: a for a in articles}
        self._coupons, self._basket = coupons or {}, basket or {}
        self._kinds = ("all", *sorted({_kind(a.name) for a in articles}))

    def data(self) -> Data:
        return {"basket": dict(self._basket), "coupon": "", "orders": []}

    def view(self, s: State) -> Screen:
        kind, _, which = s.route.partition(":")
        if kind == "shop":
            return self._catalogue(s)
        if kind == "article":
            return self._article(s, which)
        return self._basket_page(s) if kind == "basket" else self._checkout(s)

    def _nav(self, s: State) -> Zone:
        say, count = self.say, sum(s.data["basket"].values())
        links = [] if s.route == "shop" else [link("go:shop", say["shop"])]
        return Zone("nav", links if s.route == "basket" else [*links, link("go:basket", f"{say['basket']}, {count}")])

    def _catalogue(self, s: State) -> Screen:
        chosen_kind = s.text("kind", "all")
        rows = [
            link(f"go:article:{a.name}", f"{a.name}, {a.price} euros")
            for a in self.articles.values()
            if chosen_kind in ("all", _kind(a.name))
        ]
        filters = Zone("toolbar", [combobox("field:kind", self.say["kind"], chosen_kind, self._kinds)])
        return Screen("Shop", [self._nav(s), *self.look.arrange([filters, Zone("list", rows, self.window)])])

    def _article(self, s: State, name: str) -> Screen:
        say, article, now = self.say, self.articles[name], self._choice(s)
        fields: list[Widget] = [combobox("field:colour", say["colour"], now["colour"], article.colours)]
        if article.sizes:
            fields.append(combobox("field:size", say["size"], now["size"], article.sizes))
        fields.append(combobox("field:count", say["count"], now["count"], COUNTS))
        zones = [Zone("text", [text(f"{article.price} euros")]), Zone("form", self.look.arrange(fields))]
        buy = Zone("toolbar", [button("add", say["add"])])
        return Screen(f"Shop: {name}", [self._nav(s), *self.look.arrange([*zones, buy])])

    def _basket_page(self, s: State) -> Screen:
        say, basket = self.say, s.data["basket"]
        lines: list[Widget] = []
        for item, count in sorted(basket.items()):
            counts = COUNTS if count <= len(COUNTS) else (*COUNTS, str(count))
            lines.append(combobox(f"count:{item}", f"{say['count']}: {item}", str(count), counts))
            lines.append(button(f"drop:{item}", f"{say['drop']} {item}"))
        tools = [
            textbox("field:coupon", say["coupon"], s.text("coupon", s.data["coupon"])),
            button("apply", say["apply"], shortcut="Enter"),
            button("go:checkout", say["checkout"], off=not basket),
        ]
        total = text(f"Total: {self._total(s)} euros" if basket else "Nothing in it.")
        zones = [Zone("form", lines), Zone("text", [total]), Zone("toolbar", tools)]
        return Screen(f"Shop: {say['basket']}", [self._nav(s), *self.look.arrange(zones)])

    def _checkout(self, s: State) -> Screen:
        say = self.say
        fields = [
            combobox("field:to", say["to"], s.text("to", PLACES[0]), PLACES),
            combobox("field:way", say["way"], s.text("way", WAYS[0]), WAYS),
        ]
        total = Zone("text", [text(f"Total: {self._total(s)} euros")])
        buy = Zone("toolbar", [button("order", say["order"], off=not s.data["basket"])])
        zones = self.look.arrange([Zone("form", self.look.arrange(fields)), total, buy])
        return Screen(f"Shop: {say['checkout']}", [self._nav(s), *zones])

    def _total(self, s: State) -> str:
        whole = sum(self.articles[item.split(",")[0]].price * n for item, n in s.data["basket"].items())
        cents = whole * (100 - self._coupons.get(s.data["coupon"], 0))
        return f"{cents // 100}" + (f".{cents % 100:02}" if cents % 100 else "")

    def _choice(self, s: State) -> dict[str, str]:
        """The options of the article that is shown."""
        article = self.articles[s.route.removeprefix("article:")]
        size = s.text("size", article.sizes[0]) if article.sizes else ""
        return {"size": size, "colour": s.text("colour", article.colours[0]), "count": s.text("count", COUNTS[0])}

    def on_add(self, s: State, argument: str, value: str) -> None:
        now, name = self._choice(s), s.route.removeprefix("article:")
        item = item_of(name, now["size"], now["colour"])
        s.data["basket"][item] = s.data["basket"].get(item, 0) + int(now["count"])
        s.note = f"{now['count']} x {item} added."

    def on_count(self, s: State, item: str, count: str) -> None:
        s.data["basket"][item] = int(count)

    def on_drop(self, s: State, item: str, value: str) -> None:
        del s.data["basket"][item]

    def on_apply(self, s: State, argument: str, value: str) -> None:
        code = s.text("coupon", s.data["coupon"])
        if code and code not in self._coupons:
            s.problem = f"{code} is no coupon."
            return
        s.data["coupon"] = code
        s.note = f"{self._coupons[code]} percent off." if code else "No coupon."

    def on_order(self, s: State, argument: str, value: str) -> None:
        order = {"basket": s.data["basket"], "coupon": s.data["coupon"]}
        s.data["orders"].append({**order, "to": s.text("to", PLACES[0]), "way": s.text("way", WAYS[0])})
        s.data.update({"basket": {}, "coupon": ""})
        self.visit(s, "shop")
        s.note = "Thank you for your order."

    # ---- for experts

    def holding(self, s: State, basket: Counts) -> Command | None:
        """Until this is in the basket, and nothing else."""
        now = s.data["basket"]
        for item in sorted(now):
            if item not in basket:
                return self._at(s, "basket") or click(f"drop:{item}")
            if now[item] != basket[item]:
                return self._at(s, "basket") or select(f"count:{item}", str(basket[item]))
        missing = next((item for item in basket if item not in now), None)
        return self._taken(s, missing, basket[missing]) if missing is not None else None

    def _taken(self, s: State, item: str, count: int) -> Command:
        """Towards so many of an item that is not in the basket."""
        name, *size, colour = item.split(", ")
        if (command := self.shown(s, name)) is not None:
            return command
        target = {"colour": colour, "count": str(count)} | ({"size": size[0]} if size else {})
        now = self._choice(s)
        wrong = next((n for n in target if now[n] != target[n]), None)
        return click("add") if wrong is None else select(f"field:{wrong}", target[wrong])

    def _listing(self, s: State, name: str) -> Command:
        """Towards an article from the catalogue."""
        kind = s.text("kind", "all")
        return click(f"go:article:{name}") if kind in ("all", _kind(name)) else select("field:kind", _kind(name))

    def shown(self, s: State, name: str) -> Command | None:
        """Until the article is shown."""
        return None if s.route == f"article:{name}" else self._at(s, "shop") or self._listing(s, name)

    def filtered(self, s: State, kind: str) -> Command | None:
        """Until the catalogue shows this kind."""
        chosen = s.text("kind", "all") == kind
        return self._at(s, "shop") or (None if chosen else select("field:kind", kind))

    def with_coupon(self, s: State, code: str) -> Command | None:
        """Until the coupon is applied."""
        if s.data["coupon"] == code:
            return None
        if (command := self._at(s, "basket")) is not None:
            return command
        typed = s.text("coupon", s.data["coupon"]) == code
        return click("apply") if typed else type_in("field:coupon", code)

    def ordered(self, s: State, order: Mapping[str, object]) -> Command | None:
        """Until this was ordered; what else was ordered cannot be helped."""
        if order in s.data["orders"]:
            return None
        basket, code = order["basket"], str(order["coupon"])
        assert isinstance(basket, Mapping)
        if (command := self.holding(s, basket) or self.with_coupon(s, code)) is not None:
            return command
        if s.route != "checkout":
            return self._at(s, "basket") or click("go:checkout")
        to, way = str(order["to"]), str(order["way"])
        if s.text("to", PLACES[0]) != to:
            return select("field:to", to)
        return select("field:way", way) if s.text("way", WAYS[0]) != way else click("order")

    def _at(self, s: State, route: str) -> Command | None:
        return None if s.route == route else click(f"go:{route}")


def item_of(name: str, size: str, colour: str) -> str:
    """How a basket calls an article with its options."""
    return ", ".join(filter(None, (name, size, colour)))


def _kind(name: str) -> str:
    return name.rpartition(" ")[2]


def articles(dice: Dice, count: int, kinds: Sequence[str] = KINDS) -> list[Article]:
    """So many articles of different names and prices."""
    names = dice.sample([f"{brand} {kind}" for brand in BRANDS for kind in kinds], count)
    prices = dice.sample(range(5, 60), count)
    return [
        Article(name, price, SIZES if _kind(name) in ("shirt", "bag", "cap") else (), tuple(dice.sample(COLOURS, 3)))
        for name, price in zip(sorted(names), prices, strict=True)
    ]


def some_item(dice: Dice, article: Article) -> str:
    """The article with options."""
    return item_of(article.name, dice.choice(article.sizes) if article.sizes else "", dice.choice(article.colours))


def order_of(basket: Counts, coupon: str = "", to: str = PLACES[0], way: str = WAYS[0]) -> Data:
    """An order as the shop keeps it."""
    return {"basket": dict(basket), "coupon": coupon, "to": to, "way": way}


def _coupons(dice: Dice) -> dict[str, int]:
    return {code: 5 * dice.between(1, 4) for code in dice.sample(COUPONS, 2)}


def said(basket: Counts) -> str:
    """``2 Alba shirt (small, red) and 1 Fjord mug (blue)``."""
    return " and ".join(f"{n} {item.replace(', ', ' (', 1)})" for item, n in basket.items())


def _way(to: str, way: str) -> str:
    return f"Deliver to {to}, {way} delivery."


def _filling(app: Shop, sentence: str, basket: Counts) -> Task:
    """A task that ends with a basket."""
    after = app.data() | {"basket": dict(basket)}
    return single(app, sentence, lambda s: app.holding(s, basket), after)


def _ordering(app: Shop, sentence: str, order: Data, texts: Sequence[str] = ()) -> Task:
    """A task that ends with an order and an empty basket."""
    after = app.data() | {"basket": {}, "orders": [order]}
    return single(app, sentence, lambda s: app.ordered(s, order), after, texts=texts)


@template("shop")
def take(dice: Dice, look: Look) -> Task:
    """An article with options in the basket."""
    app = Shop(look, listed := articles(dice, dice.between(6, 9)))
    basket = {some_item(dice, dice.choice(listed)): dice.between(1, 3)}
    return _filling(app, f"Put {said(basket)} into the basket.", basket)


@template("shop")
def drop(dice: Dice, look: Look) -> Task:
    """An article out of the basket."""
    listed = articles(dice, 6)
    basket = {some_item(dice, a): dice.between(1, 3) for a in dice.sample(listed, dice.between(2, 3))}
    app = Shop(look, listed, basket=basket)
    out = dice.choice(list(basket))
    left = {item: n for item, n in basket.items() if item != out}
    return _filling(app, f"Take the {out.split(',')[0]} out of the basket.", left)


@template("shop")
def change(dice: Dice, look: Look) -> Task:
    """Another quantity in the basket."""
    listed = articles(dice, 6)
    basket = {some_item(dice, a): dice.between(1, 2) for a in dice.sample(listed, dice.between(2, 3))}
    app = Shop(look, listed, basket=basket)
    item, count = dice.choice(list(basket)), dice.between(3, 5)
    sentence = f"Change the basket to {count} of the {item.split(',')[0]}."
    return _filling(app, sentence, basket | {item: count})


@template("shop")
def order(dice: Dice, look: Look) -> Task:
    """An order of one article."""
    app = Shop(look, listed := articles(dice, dice.between(6, 9)))
    basket = {some_item(dice, dice.choice(listed)): dice.between(1, 2)}
    return _ordering(app, f"Order {said(basket)}.", order_of(basket))


@template("shop")
def coupon(dice: Dice, look: Look) -> Task:
    """What is in the basket, with a coupon."""
    listed, coupons = articles(dice, 6), _coupons(dice)
    basket = {some_item(dice, dice.choice(listed)): dice.between(1, 3)}
    app = Shop(look, listed, coupons, basket)
    code = dice.choice(list(coupons))
    sentence = f"Order the {next(iter(basket)).split(',')[0]} in the basket with the coupon {code}."
    return _ordering(app, sentence, order_of(basket, code), COUPONS[:4] if code in COUPONS[:4] else COUPONS[2:])


@template("shop")
def deliver(dice: Dice, look: Look) -> Task:
    """What is in the basket, to a place."""
    listed = articles(dice, 6)
    basket = {some_item(dice, a): dice.between(1, 3) for a in dice.sample(listed, 2)}
    app = Shop(look, listed, basket=basket)
    to, way = dice.choice(PLACES), dice.choice(WAYS)
    names = " and ".join(item.split(",")[0] for item in basket)
    sentence = f"Order what is in the basket, {names}. {_way(to, way)}"
    return _ordering(app, sentence, order_of(basket, "", to, way))


@template("shop")
def cheapest(dice: Dice, look: Look) -> Task:
    """The cheapest article of a kind in the basket."""
    kinds = dice.sample(KINDS, 3)
    app = Shop(look, listed := articles(dice, dice.between(8, 10), kinds))
    kind = _kind(dice.choice(listed).name)
    best = min((a for a in listed if _kind(a.name) == kind), key=lambda a: a.price)
    colour = dice.choice(best.colours)
    sizes = dice.choice(best.sizes) if best.sizes else ""
    basket = {item_of(best.name, sizes, colour): 1}

    def expert(s: State) -> Command | None:
        if not s.data["basket"] and s.route == "shop" and (command := app.filtered(s, kind)) is not None:
            return command
        return app.holding(s, basket)

    options = ", ".join(filter(None, (sizes, colour)))
    sentence = f"Put the cheapest {kind} ({options}) into the basket."
    return single(app, sentence, expert, app.data() | {"basket": basket})


@template("shop")
def ask(dice: Dice, look: Look) -> Task:
    """What an article comes in."""
    app = Shop(look, listed := articles(dice, dice.between(7, 9)))
    article = dice.choice(listed)
    colour = dice.choice(article.colours)
    others = [c for c in COLOURS if c not in article.colours]
    offered = dice.shuffled([colour, *others[:2]])
    sentence = f"In which of these colours is the {article.name} sold: {', '.join(offered)}?"
    return single(app, sentence, lambda s: app.shown(s, article.name), answer=colour, texts=offered)


@template("shop", unseen=True)
def big_order(dice: Dice, look: Look) -> Task:
    """An order of two articles with a coupon to a place."""
    coupons = _coupons(dice)
    app = Shop(look, listed := articles(dice, dice.between(7, 9)), coupons)
    basket = {some_item(dice, a): dice.between(1, 2) for a in dice.sample(listed, 2)}
    code, to, way = dice.choice(list(coupons)), dice.choice(PLACES[1:]), dice.choice(WAYS)
    sentence = f"Order {said(basket)} with the coupon {code}. {_way(to, way)}"
    return _ordering(app, sentence, order_of(basket, code, to, way), sorted({code, *COUPONS[:2]}))
