// Draws the screen that the server describes, and sends back what the user did. Elements are kept while they stay on the
// screen, so that typing, focus and half-made clicks survive a drawing.
"use strict";

const byId = (id) => document.getElementById(id);
let address = "";  // of the world that is shown, as the document's own address has it, or as attach() was told
let queue = Promise.resolve();

function send(done) {
  queue = queue.then(async () => {
    const response = await fetch(`${address}act`, { method: "POST", body: JSON.stringify(done) });
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    draw(await response.json());
  });
  return queue;
}

// Widgets --------------------------------------------------------------------------------------------------------------

const typed = new WeakSet();  // textboxes whose text was not sent yet

function commit(input) {
  if (!typed.delete(input)) return;
  send({ name: "type", key: input.dataset.key, text: input.value });
}

function made(widget) {
  const { role } = widget;
  if (role === "button" || role === "tab") {
    const button = document.createElement("button");
    button.type = "button";
    if (role === "tab") button.setAttribute("role", "tab");
    button.addEventListener("click", () => send({ name: "click", key: button.dataset.key }));
    return button;
  }
  if (role === "link") {
    const link = document.createElement("a");
    link.href = "#";
    link.addEventListener("click", (event) => {
      event.preventDefault();
      send({ name: "click", key: link.dataset.key });
    });
    return link;
  }
  if (role === "textbox" || role === "checkbox" || role === "combobox") {
    const label = document.createElement("label");
    const name = document.createElement("span");
    const control = document.createElement(role === "combobox" ? "select" : "input");
    control.dataset.control = "";
    if (role === "textbox") {
      control.type = "text";
      control.autocomplete = "off";
      control.spellcheck = false;
      control.addEventListener("input", () => typed.add(control));
      control.addEventListener("blur", () => commit(control));
      label.append(name, control);
    } else if (role === "checkbox") {
      control.type = "checkbox";
      label.className = "tick";
      control.addEventListener("change", () => send({ name: "check", key: control.dataset.key }));
      label.append(control, name);
    } else {
      control.addEventListener("change", () => send({ name: "select", key: control.dataset.key, text: control.value }));
      label.append(name, control);
    }
    return label;
  }
  const element = document.createElement({ heading: "h2", text: "p" }[role] || "div");
  if (role === "status" || role === "alert") element.setAttribute("role", role);
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function update(element, widget) {
  const control = element.matches("label") ? element.querySelector("[data-control]") : element;
  const states = new Set(widget.states);
  element.dataset.widget = "";
  setText(control === element ? element : element.querySelector("span"), widget.name);
  if (widget.key) {
    control.dataset.key = widget.key;
    control.dataset.id = widget.id;
  }
  if ("disabled" in control) control.disabled = states.has("disabled");
  else control.toggleAttribute("aria-disabled", states.has("disabled"));
  if (widget.role === "tab") control.setAttribute("aria-selected", String(states.has("selected")));
  if (widget.role === "checkbox") control.checked = states.has("checked");
  if (widget.role === "textbox") {
    if (states.has("invalid")) control.setAttribute("aria-invalid", "true");
    else control.removeAttribute("aria-invalid");
    if (!typed.has(control)) control.value = widget.value;
  }
  if (widget.role === "combobox") {
    const options = [...control.options].map((option) => option.value);
    if (options.length !== widget.options.length || options.some((option, i) => option !== widget.options[i])) {
      control.replaceChildren(...widget.options.map((option) => new Option(option, option)));
    }
    control.value = widget.value;
    if (control.value !== widget.value) control.selectedIndex = -1;
  }
  if (widget.shortcut) control.setAttribute("aria-keyshortcuts", widget.shortcut);
  else control.removeAttribute("aria-keyshortcuts");
}

// Drawing --------------------------------------------------------------------------------------------------------------

function fill(parent, widgets) {
  const before = new Map();
  for (const element of parent.children) before.set(element.dataset.slot, element);
  const counts = new Map();
  let place = parent.firstElementChild;
  for (const widget of widgets) {
    const name = `${widget.role} ${widget.key || widget.name}`;
    const count = (counts.get(name) || 0) + 1;
    counts.set(name, count);
    const slot = `${name} ${count}`;
    const element = before.get(slot) || made(widget);
    before.delete(slot);
    element.dataset.slot = slot;
    update(element, widget);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const element of before.values()) element.remove();
}

function more(direction, count) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "more";
  button.dataset.scroll = direction;
  button.tabIndex = -1;
  button.textContent = `${direction === "up" ? "▲" : "▼"} ${count} more`;
  button.addEventListener("click", () => send({ name: "scroll", text: direction }));
  return button;
}

function drawZones(zones) {
  const parent = byId("zones");
  while (parent.children.length > zones.length) parent.lastElementChild.remove();
  zones.forEach((zone, i) => {
    let section = parent.children[i];
    if (!section) {
      section = document.createElement("section");
      parent.append(section);
    }
    section.className = `zone ${zone.kind}`;
    section.toggleAttribute("data-window", "above" in zone);
    for (const button of section.querySelectorAll(".more")) button.remove();
    fill(section, zone.widgets);
    if (zone.above) section.prepend(more("up", zone.above));
    if (zone.below) section.append(more("down", zone.below));
  });
}

function appButton(name, attributes) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.app = name;
  button.textContent = name;
  for (const [key, value] of Object.entries(attributes)) button.setAttribute(key, value);
  button.addEventListener("click", () => send({ name: "show", text: name }));
  return button;
}

function drawBar(screen) {
  byId("back").disabled = !screen.back;
  const bar = JSON.stringify([screen.here, screen.tabs, screen.apps]);
  if (byId("bar").dataset.drawn === bar) return;
  byId("bar").dataset.drawn = bar;
  byId("tabs").replaceChildren(
    ...screen.tabs.map((name) => appButton(name, { role: "tab", "aria-selected": String(name === screen.here) })),
  );
  byId("launcher").replaceChildren(
    ...screen.apps.filter((name) => !screen.tabs.includes(name)).map((name) => appButton(name, {})),
  );
}

function draw(screen) {
  document.title = screen.title;
  setText(byId("title"), screen.title);
  setText(byId("task"), screen.task);
  drawBar(screen);
  fill(byId("messages"), screen.messages);
  drawZones(screen.zones);
  byId("shade").hidden = screen.dialog === null;
  byId("layout").inert = screen.dialog !== null;  // the bar stays, as a browser's own would
  setText(byId("dialog-title"), screen.dialog === null ? "" : screen.dialog.title);
  fill(byId("dialog-body"), screen.dialog === null ? [] : screen.dialog.widgets);
}

// Keys and wheels ------------------------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" && event.key !== "Escape") return;
  const target = document.querySelector(
    `${byId("shade").hidden ? "#screen" : "#dialog"} [aria-keyshortcuts="${event.key}"]:not(:disabled)`,
  );
  if (target === null) return;
  event.preventDefault();
  if (document.activeElement && document.activeElement.type === "text") commit(document.activeElement);
  send({ name: "press", text: event.key });
}, true);

const NOTCH = 300;  // how far a wheel turns for one window of a list
let turned = 0;

document.addEventListener("wheel", (event) => {
  const list = event.target instanceof Element ? event.target.closest("[data-window]") : null;
  if (list === null) return;
  const direction = event.deltaY > 0 ? "down" : "up";
  if (list.querySelector(`[data-scroll="${direction}"]`) === null) {
    turned = 0;
    return;
  }
  event.preventDefault();
  turned += event.deltaY;
  if (Math.abs(turned) < NOTCH) return;
  turned = 0;
  send({ name: "scroll", text: direction });
}, { passive: false });

byId("back").addEventListener("click", () => send({ name: "back" }));

// For the driver -------------------------------------------------------------------------------------------------------

const ROLES = { BUTTON: "button", A: "link", SELECT: "combobox", H2: "heading", P: "text" };

function read(element) {
  const control = element.matches("label") ? element.querySelector("[data-control]") : element;
  const tag = control.tagName;
  let role = control.getAttribute("role") || ROLES[tag];
  if (tag === "INPUT") role = control.type === "checkbox" ? "checkbox" : "textbox";
  const states = [];
  if (role === "checkbox" && control.checked) states.push("checked");
  if (control.disabled || control.hasAttribute("aria-disabled")) states.push("disabled");
  if (control.getAttribute("aria-selected") === "true") states.push("selected");
  if (control.getAttribute("aria-invalid") === "true") states.push("invalid");
  const name = (control === element ? element : element.querySelector("span")).textContent;
  const value = role === "textbox" || role === "combobox" ? control.value : null;
  const options = role === "combobox" ? [...control.options].map((option) => option.textContent) : [];
  return [control.dataset.id || "", role, name, value, states, options, control.getAttribute("aria-keyshortcuts") || ""];
}

// What is on the page, once everything that was done has been answered.
window.snapshot = async () => {
  await queue;
  const dialog = byId("shade").hidden ? null : byId("dialog");
  const roots = dialog ? [...byId("messages").children, ...byId("dialog-body").children]
    : [...byId("messages").children, ...document.querySelectorAll("#zones > .zone > [data-widget]")];
  const tabs = [...byId("tabs").children];
  const here = tabs.find((tab) => tab.getAttribute("aria-selected") === "true");
  return {
    title: byId("title").textContent,
    dialog: dialog ? byId("dialog-title").textContent : "",
    shown: roots.map(read),
    up: dialog === null && document.querySelector('[data-scroll="up"]') !== null,
    down: dialog === null && document.querySelector('[data-scroll="down"]') !== null,
    back: !byId("back").disabled,
    here: here ? here.dataset.app : "",
    tabs: tabs.map((tab) => tab.dataset.app),
  };
};

// Show another world, as a new document would.
window.attach = async (other) => {
  await queue.catch(() => null);
  address = other;
  turned = 0;
  queue = Promise.resolve();
  if (document.activeElement) document.activeElement.blur();
  for (const id of ["messages", "zones", "dialog-body"]) byId(id).replaceChildren();
  await send({});
};

// The middle of an element, in view; whoever clicks there hits it.
window.locate = (selector, select) => {
  const element = document.querySelector(selector);
  if (element === null) throw new Error(`nothing matches ${selector}`);
  let box = element.getBoundingClientRect();
  if (box.top < 0 || box.bottom > innerHeight) {
    element.scrollIntoView({ block: "center", behavior: "instant" });
    box = element.getBoundingClientRect();
  }
  const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
  const hit = document.elementFromPoint(x, y);
  if (hit === null || !(element.contains(hit) || hit.contains(element))) throw new Error(`${selector} is covered`);
  return [x, y];
};

send({});
