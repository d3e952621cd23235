"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { nodes, question, usage, trajectories, votes, dimensions } = data;
  const count = nodes.parent.length;
  const WIDTH = 184, HEIGHT = 66, GAP_X = 40, GAP_Y = 14, TAIL = 84;
  const byId = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text; // foreign text only ever enters as text
    return element;
  };
  const cut = (text, limit) => (text.length > limit ? text.slice(0, limit) + "…" : text);
  const fixed = (value, digits = 2) => (value === null ? "–" : value.toFixed(digits));
  const grouped = (value) => (Number.isInteger(value) ? value.toLocaleString("en-US") : value.toFixed(2));
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const color = (dimension) => `var(--${dimensions[dimension]})`;

  // ---- the tree as arrays ---------------------------------------------------------------------
  const children = Array.from({ length: count }, () => []);
  const below = new Array(count).fill(0); // nodes in the subtree, the node itself not counted
  const depth = new Array(count).fill(0);
  for (let i = 1; i < count; i++) { children[nodes.parent[i]].push(i); depth[i] = depth[nodes.parent[i]] + 1; }
  for (let i = count - 1; i > 0; i--) below[nodes.parent[i]] += below[i] + 1;
  const chosen = new Set(data.chosen);
  const ends = new Map(trajectories.map((t) => [t.node, t]));
  const shut = new Set();
  const place = new Map(); // visible node -> [x, y]
  const cards = new Map(); // node -> element, made when first shown
  const curves = new Map();
  let picked = data.chosen.length ? data.chosen[data.chosen.length - 1] : 0;

  function showChosen() {
    shut.clear();
    for (let i = 0; i < count; i++) if (children[i].length && !chosen.has(i)) shut.add(i);
    if (!chosen.size) shut.delete(0);
  }

  function layout() { // leaves take one row each, a parent stands in the middle of its children
    place.clear();
    let row = 0;
    const stack = [[0, false]];
    while (stack.length) {
      const [node, left] = stack.pop();
      const open = shut.has(node) ? [] : children[node];
      if (!left && open.length) {
        stack.push([node, true]);
        for (let i = open.length - 1; i >= 0; i--) stack.push([open[i], false]);
        continue;
      }
      const ahead = open.find((child) => chosen.has(child)); // the chosen path runs straight
      const y = !open.length ? row++ * (HEIGHT + GAP_Y)
        : ahead !== undefined ? place.get(ahead)[1] : (place.get(open[0])[1] + place.get(open[open.length - 1])[1]) / 2;
      place.set(node, [depth[node] * (WIDTH + GAP_X), y]);
    }
  }

  function bars(reward, className) {
    const box = make("div", className || "bars");
    if (reward === null) return box;
    reward.forEach((value, d) => {
      const track = make("div", "track"), fill = make("i");
      fill.style.width = `${Math.round(value * 100)}%`;
      fill.style.background = color(d);
      track.append(fill);
      track.title = `${dimensions[d]} ${fixed(value)}`;
      box.append(track);
    });
    box.append(make("span", "mean", fixed(mean(reward))));
    return box;
  }

  function card(node) {
    const element = make("div", "node");
    element.setAttribute("role", "treeitem");
    element.tabIndex = -1;
    element.dataset.node = node;
    element.setAttribute("aria-level", depth[node] + 1);
    const text = make("div", "text", node === 0 ? cut(question.text, 160) : cut(nodes.text[node], 160));
    text.dir = "auto";
    const foot = bars(nodes.reward[node]);
    if (nodes.visits[node] > 0) foot.append(make("span", "visits", `×${grouped(nodes.visits[node])}`));
    element.append(text, foot);
    if (node === 0) element.classList.add("root");
    if (chosen.has(node) && node !== 0) element.classList.add("chosen");
    if (nodes.status[node] === "failed") element.classList.add("failed");
    if (ends.has(node)) {
      const end = make("span", "end", ends.get(node).answer === null ? "no answer" : cut(ends.get(node).answer, 40));
      end.dir = "auto";
      element.append(end);
    }
    if (children[node].length) element.append(make("span", "fold"));
    const label = node === 0 ? "Question" : cut(nodes.text[node], 200);
    const reward = nodes.reward[node];
    const scores = reward === null ? "" : ", " + reward.map((v, d) => `${dimensions[d]} ${fixed(v)}`).join(", ");
    element.setAttribute("aria-label", label + scores + (chosen.has(node) ? ", on the chosen path" : ""));
    return element;
  }

  const world = byId("world"), view = byId("view"), layer = byId("nodes"), edges = byId("edges");

  function draw() {
    layout();
    for (const [node, element] of cards) if (!place.has(node)) element.remove();
    for (const [node, curve] of curves) if (!place.has(node)) curve.remove();
    const late = [];
    for (const [node, [x, y]] of place) {
      if (!cards.has(node)) cards.set(node, card(node));
      const element = cards.get(node), closed = shut.has(node);
      element.style.left = `${x}px`;
      element.style.top = `${y}px`;
      element.classList.toggle("shut", closed);
      if (children[node].length) {
        element.setAttribute("aria-expanded", String(!closed));
        element.querySelector(".fold").textContent = closed ? `+${below[node]}` : "−";
      }
      if (!element.isConnected) layer.append(element);
      if (node === 0) continue;
      if (!curves.has(node)) {
        const curve = document.createElementNS("http://www.w3.org/2000/svg", "path");
        if (chosen.has(node)) curve.setAttribute("class", "chosen");
        else if (nodes.status[node] === "failed") curve.setAttribute("class", "failed");
        curves.set(node, curve);
      }
      const [px, py] = place.get(nodes.parent[node]), curve = curves.get(node);
      const x0 = px + WIDTH, y0 = py + HEIGHT / 2, y1 = y + HEIGHT / 2, half = (x0 + x) / 2;
      curve.setAttribute("d", `M${x0} ${y0}C${half} ${y0} ${half} ${y1} ${x} ${y1}`);
      if (chosen.has(node)) late.push(curve);
      else if (!curve.isConnected) edges.append(curve);
    }
    edges.append(...late);
    mark();
  }

  // ---- pan and zoom ---------------------------------------------------------------------------
  let scale = 1, left = 0, top = 0;
  function apply() {
    world.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
    view.style.backgroundPosition = `${left}px ${top}px`;
    world.classList.toggle("far", scale < 0.5);
    byId("zoom").textContent = `${Math.round(scale * 100)}%`;
  }
  function zoom(factor, x = view.clientWidth / 2, y = view.clientHeight / 2) {
    const next = Math.min(2, Math.max(0.05, scale * factor));
    left = x - ((x - left) * next) / scale;
    top = y - ((y - top) * next) / scale;
    scale = next;
    apply();
  }
  function extent() {
    let right = 0, bottom = 0;
    for (const [x, y] of place.values()) { right = Math.max(right, x + WIDTH); bottom = Math.max(bottom, y + HEIGHT); }
    return [right + TAIL, bottom];
  }
  function frame(floor) { // the whole tree if it fits at `floor` or more, else the chosen path
    const [w, h] = extent(), pad = 24;
    const whole = Math.min((view.clientWidth - 2 * pad) / w, (view.clientHeight - 2 * pad) / h);
    scale = Math.min(1, Math.max(floor(w, pad), whole));
    left = Math.max(pad, (view.clientWidth - w * scale) / 2);
    const ys = [...chosen, 0].filter((n) => place.has(n)).map((n) => place.get(n)[1]);
    const middle = (Math.min(...ys) + Math.max(...ys) + HEIGHT) / 2;
    const high = h * scale > view.clientHeight - 2 * pad;
    top = view.clientHeight / 2 - (high ? middle : h / 2) * scale;
    if (high) top = Math.min(pad, Math.max(view.clientHeight - pad - h * scale, top)); // no empty margin
    apply();
  }
  const fit = () => frame(() => 0.15);
  const start = () => frame((w, pad) => Math.min(1, Math.max(0.6, (view.clientWidth - 2 * pad) / w))); // readable
  function reveal(node) {
    for (let up = nodes.parent[node]; up >= 0; up = nodes.parent[up]) shut.delete(up);
    draw();
    const [x, y] = place.get(node), sx = x * scale + left, sy = y * scale + top;
    if (sx < 10 || sx + WIDTH * scale > view.clientWidth - 10) left = view.clientWidth / 2 - (x + WIDTH / 2) * scale;
    if (sy < 10 || sy + HEIGHT * scale > view.clientHeight - 10) top = view.clientHeight / 2 - (y + HEIGHT / 2) * scale;
    apply();
  }
  const touches = new Map();
  view.addEventListener("pointerdown", (event) => {
    if (event.button > 0) return;
    touches.set(event.pointerId, [event.clientX, event.clientY, event.clientX, event.clientY]);
  });
  view.addEventListener("pointermove", (event) => {
    const last = touches.get(event.pointerId);
    if (!last) return;
    if (!view.classList.contains("drag") && Math.hypot(event.clientX - last[2], event.clientY - last[3]) < 4) return;
    if (!view.classList.contains("drag")) { view.classList.add("drag"); view.setPointerCapture(event.pointerId); }
    if (touches.size === 1) { left += event.clientX - last[0]; top += event.clientY - last[1]; apply(); }
    else {
      const [other] = [...touches].filter(([id]) => id !== event.pointerId).map(([, p]) => p), box = view.getBoundingClientRect();
      const before = Math.hypot(last[0] - other[0], last[1] - other[1]), now = Math.hypot(event.clientX - other[0], event.clientY - other[1]);
      if (before > 0) zoom(now / before, (event.clientX + other[0]) / 2 - box.left, (event.clientY + other[1]) / 2 - box.top);
    }
    last[0] = event.clientX; last[1] = event.clientY;
  });
  let dragged = false;
  const release = (event) => { dragged = view.classList.contains("drag"); touches.delete(event.pointerId); if (!touches.size) view.classList.remove("drag"); };
  view.addEventListener("pointerup", release);
  view.addEventListener("pointercancel", release);
  view.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = view.getBoundingClientRect();
    if (event.shiftKey) { left -= event.deltaY; apply(); }
    else zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });

  // ---- choosing nodes -------------------------------------------------------------------------
  function mark() {
    for (const [node, element] of cards) {
      element.classList.toggle("picked", node === picked);
      element.setAttribute("aria-selected", String(node === picked));
      element.tabIndex = node === picked ? 0 : -1;
    }
    if (!place.has(picked) && cards.has(0)) cards.get(0).tabIndex = 0;
  }
  function pick(node, focus) {
    picked = node;
    reveal(node);
    detail(node);
    if (focus) cards.get(node).focus({ preventScroll: true });
  }
  function toggle(node) {
    if (!children[node].length) return;
    const [x, y] = place.get(node);
    if (shut.has(node)) shut.delete(node); else shut.add(node);
    draw();
    const [nx, ny] = place.get(node); // the node under the pointer stays where it is
    left += (x - nx) * scale;
    top += (y - ny) * scale;
    apply();
  }
  function detail(node) {
    const box = byId("detail"), reward = nodes.reward[node];
    box.replaceChildren(make("h2", "", node === 0 ? "Question" : `Step ${depth[node]} · node ${nodes.index[node]}`));
    const text = make("div", "text", node === 0 ? question.text : nodes.text[node]);
    text.dir = "auto";
    box.append(text);
    if (reward !== null) reward.forEach((value, d) => {
      const row = make("div", "row"), track = make("div", "track"), fill = make("i");
      fill.style.width = `${value * 100}%`;
      fill.style.background = color(d);
      track.append(fill);
      row.append(make("span", "", dimensions[d]), track, make("b", "", fixed(value)));
      box.append(row);
    });
    const facts = [["visits", grouped(nodes.visits[node])], ["value", fixed(nodes.value[node], 3)], ["prior", fixed(nodes.prior[node], 3)],
      ["log-prob", fixed(nodes.log_prob[node])], ["tokens", grouped(nodes.tokens[node])], ["status", nodes.status[node]]];
    const list = make("dl");
    for (const [name, value] of facts) { const pair = make("div"); pair.append(make("dt", "", name), make("dd", "", value)); list.append(pair); }
    box.append(list);
  }
  const nodeOf = (event) => { const element = event.target.closest(".node"); return element ? Number(element.dataset.node) : null; };
  layer.addEventListener("click", (event) => {
    const node = nodeOf(event);
    if (node === null || dragged) return;
    if (event.target.classList.contains("fold")) toggle(node); else { picked = node; mark(); detail(node); }
  });
  layer.addEventListener("dblclick", (event) => { const node = nodeOf(event); if (node !== null) toggle(node); });
  layer.addEventListener("pointerover", (event) => { const node = nodeOf(event); if (node !== null && !touches.size) detail(node); });
  layer.addEventListener("pointerleave", () => detail(picked));
  layer.addEventListener("focusin", (event) => { const node = nodeOf(event); if (node !== null) detail(node); });
  view.addEventListener("scroll", () => { view.scrollTop = 0; view.scrollLeft = 0; });
  layer.addEventListener("keydown", (event) => {
    const node = nodeOf(event);
    if (node === null) return;
    const level = [...place.keys()].filter((n) => depth[n] === depth[node]).sort((a, b) => place.get(a)[1] - place.get(b)[1]);
    const at = level.indexOf(node), open = !shut.has(node) && children[node].length;
    const go = { ArrowLeft: nodes.parent[node], ArrowUp: level[at - 1], ArrowDown: level[at + 1], ArrowRight: open ? children[node][0] : undefined,
      Home: 0, End: data.chosen[data.chosen.length - 1] }[event.key];
    if (event.key === "Enter" || event.key === " " || (event.key === "ArrowRight" && shut.has(node))) toggle(node);
    else if (go !== undefined && go >= 0) pick(go, true);
    else return;
    event.preventDefault();
  });
  const acts = {
    in: () => zoom(1.25), out: () => zoom(0.8), fit,
    all: () => { shut.clear(); draw(); start(); }, chosen: () => { showChosen(); draw(); start(); },
  };
  document.querySelectorAll("[data-act]").forEach((button) => button.addEventListener("click", acts[button.dataset.act]));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = { "+": "in", "=": "in", "-": "out", "0": "fit", c: "chosen", e: "all" }[event.key];
    if (act) acts[act]();
  });

  // ---- everything around the tree -------------------------------------------------------------
  const words = Object.fromEntries(["finished", "converged", "stalled", "interrupted", "cancelled"].map((w) => [w, w]));
  for (const [name, value] of [["strategy", data.strategy], ["seed", String(data.seed)], ["nodes", grouped(data.total_nodes)],
    ["tokens", grouped(usage.policy_tokens + usage.reward_tokens)], ["", words[data.stopped_by] || `stopped: ${data.stopped_by.replaceAll("_", " ")} budget`]]) {
    const chip = make("span", "chip", name ? name + " " : "");
    chip.append(make("b", "", value));
    byId("facts").append(chip);
  }
  const hero = document.querySelector(".hero"), answer = byId("answer");
  answer.textContent = data.answer === null ? "No answer found" : data.answer;
  answer.dir = "auto";
  answer.classList.toggle("none", data.answer === null);
  hero.classList.toggle("none", data.answer === null);
  hero.classList.toggle("wrong", data.correct === false && data.answer !== null);
  const winner = votes.find((v) => v.answer === data.answer), total = votes.reduce((sum, v) => sum + v.votes, 0);
  const verdict = [];
  if (winner) verdict.push(`${winner.votes} of ${total} finished trajector${total === 1 ? "y" : "ies"} agree${winner.votes === 1 ? "s" : ""}`);
  if (data.correct !== null) verdict.push(data.correct ? "✓ right" : `✗ the true answer is ${cut(question.answer, 60)}`);
  byId("verdict").textContent = verdict.join(" · ");
  byId("question").textContent = question.text;
  question.images.forEach((source, i) => {
    const label = question.labels[i];
    if (source === null) { byId("pictures").append(make("div", "gone", `${label || "The picture"} is no longer available.`)); return; }
    const picture = make("img"), frame = make("figure", label ? "frame" : "");
    picture.src = source;
    picture.alt = label || `Picture ${i + 1} of the question`;
    frame.append(picture);
    if (label) frame.append(make("figcaption", "", label));
    byId("pictures").append(frame);
  });
  question.options.forEach((option) => {
    const item = make("li", (option === data.answer ? "chosen" : "") + (option === question.true_option ? " true" : ""), option);
    item.dir = "auto";
    byId("options").append(item);
  });
  if (!data.chain.length) byId("chain").replaceWith(make("p", "empty", "No trajectory was finished."));
  data.chain.forEach((step) => {
    const item = make("li"), inTree = step.node >= 0, button = make(inTree ? "button" : "div"), text = make("div", "text", step.text);
    text.dir = "auto";
    button.append(text, bars(step.reward));
    if (inTree) { button.type = "button"; button.addEventListener("click", () => pick(step.node)); }
    item.append(button);
    byId("chain").append(item);
  });
  if (data.degraded.length) {
    byId("degraded").hidden = false;
    data.degraded.forEach((line) => byId("degraded").querySelector("ul").append(make("li", "", line)));
  }
  dimensions.forEach((name, d) => { const item = make("span"), swatch = make("i"); swatch.style.background = color(d); item.append(swatch, name); byId("legend").append(item); });
  for (const [className, name, show] of [["line", "chosen path", chosen.size > 1], ["fail", "failed", nodes.status.includes("failed")]])
    if (show) { const item = make("span"); item.append(make("i", className), name); byId("legend").append(item); }
  if (data.total_nodes > count) byId("legend").append(make("span", "", `first ${grouped(count)} of ${grouped(data.total_nodes)} nodes`));

  function table(heads, rows) {
    const element = make("table"), head = make("tr");
    for (const [name, className] of heads) head.append(make("th", className, name));
    element.append(make("thead"), make("tbody"));
    element.tHead.append(head);
    element.tBodies[0].append(...rows);
    return element;
  }
  function row(cells, className, onpick) {
    const element = make("tr", className);
    for (const [content, kind] of cells) {
      const cell = make("td", kind);
      if (typeof content === "string") { const inner = make("div", "cell", content); inner.dir = "auto"; cell.append(inner); } else cell.append(content);
      element.append(cell);
    }
    if (onpick) { element.classList.add("pick"); element.tabIndex = 0; element.addEventListener("click", onpick);
      element.addEventListener("keydown", (e) => { if (e.key === "Enter") onpick(); }); }
    return element;
  }
  const best = Math.max(1e-9, ...votes.map((v) => v.weight));
  const panels = {
    [`Votes (${votes.length})`]: () => table([["answer"], ["weight", "wide"], ["", "num"], ["votes", "num"]], votes.map((vote) => {
      const track = make("div", "track"), fill = make("i");
      fill.style.width = `${(100 * Math.max(0, vote.weight)) / best}%`;
      fill.style.background = vote.answer === data.answer ? "var(--path)" : "var(--edge)";
      track.append(fill);
      return row([[vote.answer], [track, "wide"], [fixed(vote.weight, 3), "num"], [grouped(vote.votes), "num"]], vote.answer === data.answer ? "chosen" : "");
    })),
    [`Trajectories (${trajectories.length})`]: () => table([["answer"], ["steps"], ["score", "num"]], trajectories.map((t) =>
      row([[t.answer === null ? "–" : t.answer], [cut(t.steps.join("  ›  "), 400)], [fixed(t.score, 3), "num"]], t.node === data.chosen[data.chosen.length - 1] ? "chosen" : "", () => pick(t.node)))),
    Usage: () => {
      const list = make("dl", "usage");
      for (const [name, value] of Object.entries(usage)) { const pair = make("div"); pair.append(make("dt", "", name.replaceAll("_", " ")), make("dd", "", grouped(value))); list.append(pair); }
      return list;
    },
  };
  const tabs = Object.keys(panels).map((name, i) => {
    const tab = make("button", "", name);
    tab.type = "button";
    tab.setAttribute("role", "tab");
    tab.addEventListener("click", () => open(i));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) { const next = (i + step + tabs.length) % tabs.length; open(next); tabs[next].focus(); }
    });
    byId("tabs").append(tab);
    return tab;
  });
  function open(index) {
    tabs.forEach((tab, i) => { tab.setAttribute("aria-selected", String(i === index)); tab.tabIndex = i === index ? 0 : -1; });
    byId("panel").replaceChildren(panels[tabs[index].textContent]());
  }
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = (root.dataset.theme || (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
  });

  if (count > 60) showChosen();
  draw();
  start();
  detail(picked);
  open(0);
})();
