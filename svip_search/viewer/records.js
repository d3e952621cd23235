"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { records, pictures, dimensions } = data;
  const byId = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text; // foreign text only ever enters as text
    return element;
  };

  // ---- which records are listed ---------------------------------------------------------------
  const good = (labels) => labels[0] >= 0.5 && labels[1] >= 0.5; // as in the data card
  const combination = (labels) => labels.some((v) => v === null) ? null
    : [labels[0] >= 0.5, labels[1] >= 0.5, labels[2] === 1].map((right, i) => (right ? "+" : "-") + dimensions[i]).join(" ");
  const filters = new Map([
    ["all", () => true],
    ["right answer", (r) => r.outcome === 1],
    ["wrong answer", (r) => r.outcome === 0],
    ["right answer by luck", (r) => r.outcome === 1 && r.steps.some((s) => s.labels[1] !== null && !good(s.labels))],
    ["a block failed", (r) => r.steps.some((s) => s.error)],
  ]);
  for (const r of records) for (const s of r.steps) {
    const name = combination(s.labels);
    if (name) filters.set(name, (other) => other.steps.some((t) => combination(t.labels) === name));
  }
  const text = (r) => [r.id, r.question, ...r.steps.flatMap((s) => [s.text, s.code || ""])].join("\n").toLowerCase();
  const texts = records.map(text);
  let shown = [];
  let picked = -1;

  function list() {
    const wanted = byId("search").value.toLowerCase();
    const fits = filters.get(byId("filter").value);
    shown = records.map((_, i) => i).filter((i) => fits(records[i]) && texts[i].includes(wanted));
    byId("list").replaceChildren(...shown.slice(0, 2000).map((i) => {
      const item = make("li", records[i].outcome ? "right" : "", records[i].id);
      item.setAttribute("role", "option");
      item.dataset.index = i;
      item.addEventListener("click", () => show(i));
      return item;
    }));
    byId("facts").replaceChildren(make("span", "chip", `${shown.length} of ${records.length} trajectories`));
    show(shown.includes(picked) ? picked : shown.length ? shown[0] : -1);
  }

  // ---- one record -----------------------------------------------------------------------------
  function label(value, i) {
    const row = make("div", value === null ? "label none" : "label");
    const rail = make("span", "rail");
    if (value !== null) {
      const fill = make("i");
      fill.style.width = `${100 * value}%`;
      fill.style.background = `var(--${dimensions[i]})`;
      rail.append(fill);
    }
    row.append(make("span", "", dimensions[i]), rail, make("b", "", value === null ? "–" : value.toFixed(2)));
    return row;
  }

  function step(s) {
    const card = make("section", "card step");
    const told = make("div");
    told.append(make("div", "text", s.text));
    if (s.code !== undefined) {
      told.append(make("pre", "code", s.code));
      if (s.error) told.append(make("div", "error", s.error));
      else told.append(make("pre", "result", JSON.stringify(s.result)));
    }
    const labels = make("div", "labels");
    labels.append(...s.labels.map(label));
    card.append(told, labels);
    return card;
  }

  function show(index) {
    picked = index;
    for (const item of byId("list").children) item.setAttribute("aria-selected", String(Number(item.dataset.index) === index));
    if (index < 0) return byId("record").replaceChildren(make("p", "card", "No trajectory fits."));
    const r = records[index];
    const top = make("section", "card top");
    const frame = make("div");
    for (const place of r.pictures) {
      if (pictures[place] === null) { frame.append(make("p", "", "The picture cannot be shown.")); continue; }
      const image = make("img");
      image.src = pictures[place];
      image.alt = "Picture of the question";
      frame.append(image);
    }
    const about = make("div");
    const options = make("ul", "options");
    for (const option of r.options) options.append(make("li", option === r.answer ? "true" : "", option));
    const facts = [r.id, r.family, r.source, r.sandbox, r.outcome ? "right answer" : "wrong answer"].filter(Boolean);
    const chips = make("div", "facts");
    chips.append(...facts.map((fact) => make("span", "chip", fact)));
    about.append(make("h1", "", r.question), options, make("p", "", `Answer: ${r.answer === null ? "unknown" : r.answer}`), chips);
    top.append(frame, about);
    byId("record").replaceChildren(top, ...r.steps.map(step));
  }

  for (const name of filters.keys()) byId("filter").append(new Option(name, name));
  byId("filter").addEventListener("change", list);
  byId("search").addEventListener("input", list);
  byId("list").addEventListener("keydown", (event) => {
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!move || !shown.length) return;
    event.preventDefault();
    show(shown[Math.min(shown.length - 1, Math.max(0, shown.indexOf(picked) + move))]);
    const item = byId("list").querySelector('[aria-selected="true"]');
    if (item) item.scrollIntoView({ block: "nearest" });
  });
  byId("theme").addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).getPropertyValue("--paper").trim() === "#12151b";
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  });
  list();
})();
