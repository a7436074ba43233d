// The live page: follows the event stream and keeps every figure up to date in place.

import { MARKS, STATES, ago, count, h, mark, put, reason, s, seconds, share, slotBar, sparkline, swap, usd } from "./draw.js";
import { WhatIf, showRequest } from "./explain.js";

const $ = (id) => document.getElementById(id);
const past = new Map();
const routeCards = new Map(), tierCards = new Map(), tiles = new Map(), rows = new Map();
const whatIf = new WhatIf();
let now = null, heard = 0, source = null;

// ---- the stream

function connect() {
  source = new EventSource("console/events");
  source.addEventListener("hello", (event) => {
    const told = JSON.parse(event.data);
    past.clear();
    for (const [name, points] of Object.entries(told.past)) past.set(name, points);
    take(told);
  });
  source.addEventListener("now", (event) => take(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    live();
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
  });
}

function take(told) {
  now = told;
  heard = performance.now();
  for (const route of now.routes) {
    const points = past.get(route.name) || [];
    if (route.now && (!points.length || points[points.length - 1][0] < route.now.at)) {
      points.push([route.now.at, route.now.p50, route.now.p95, route.now.per_s]);
    }
    while (points.length && points[0][0] < now.at - 300) points.shift();
    past.set(route.name, points);
  }
  document.body.classList.remove("waiting");
  live();
  show();
}

function live() {
  const quiet = (performance.now() - heard) / 1000;
  const open = source && source.readyState === EventSource.OPEN;
  if (heard && quiet < 3 && open) mark($("live"), "good", "● live");
  else if (!heard) mark($("live"), "warn", "◌ connecting");
  else mark($("live"), "bad", `▲ no news for ${Math.max(1, Math.round(quiet))} s, ${open ? "waiting" : "reconnecting"}`);
  document.body.classList.toggle("stale", heard > 0 && (quiet >= 3 || !open));
}

// ---- the whole page

function show() {
  const ready = { ready: ["good", "✓ ready"], draining: ["warn", "▲ draining"], not_ready: ["bad", "✕ not ready"] };
  mark($("status"), ...(ready[now.status] || ["warn", now.status]));
  put($("version"), now.version + (now.workers ? ` · ${count(now.workers)} workers` : ""));
  showAttention();
  showTiles();
  showMoney();
  keyed($("routes"), routeCards, now.routes, (each) => each.name, routeCard);
  keyed($("tiers"), tierCards, now.backends, (each) => each.name, tierCard);
  showDecisions();
  showConfig();
  whatIf.follow(now);
}

function keyed(parent, cards, entries, keyOf, make) {
  const keys = new Set(entries.map(keyOf));
  for (const [key, card] of cards) if (!keys.has(key)) { card.root.remove(); cards.delete(key); }
  entries.forEach((entry, place) => {
    const key = keyOf(entry);
    if (!cards.has(key)) cards.set(key, make(entry));
    const card = cards.get(key);
    if (parent.children[place] !== card.root) parent.insertBefore(card.root, parent.children[place] || null);
    card.show(entry);
  });
}

function showAttention() {
  const found = now.attention, box = $("attention"), worst = found[0];
  box.className = "attention " + (worst ? worst.level : "good");
  const sign = { bad: "✕", warn: "▲", note: "ℹ" };
  put($("attention-first"), worst
    ? `${sign[worst.level]} ${worst.says}${found.length > 1 ? ` — and ${found.length - 1} more` : ""}`
    : "✓ Nothing needs attention.");
  const text = found.map((each) => each.level + each.says).join("\n");
  if (box.dataset.text !== text) {
    box.dataset.text = text;
    swap($("attention-all"), found.length ? found.map((each) => h("li", { class: each.level }, `${sign[each.level]} ${each.says}`))
      : h("li", {}, "Every tier takes calls, and the last file was taken over."));
  }
}

function tile(key, label, title) {
  if (!tiles.has(key)) {
    const value = h("dd", { class: "value", id: "tile-" + key }), more = h("p", { class: "soft" });
    $("tiles").append(h("dl", { class: "tile", title: title || null }, h("dt", {}, label), value, h("dd", { class: "more" }, more)));
    tiles.set(key, { value, more });
  }
  return tiles.get(key);
}

function showTiles() {
  const all = now.total;
  const rate = now.routes.reduce((sum, each) => sum + (each.now?.per_s || 0), 0);
  const set = (key, label, text, value, more, level) => {
    const found = tile(key, label);
    put(found.value, text, value);
    found.value.className = "value " + (level || "");
    put(found.more, more);
  };
  set("requests", "Calls", count(all.requests), all.requests,
    `${rate.toFixed(rate < 10 ? 1 : 0)}/s · ${count(all.in_flight)} in flight · ${count(all.queued)} wait`);
  const kept = all.attained === null || all.objective === null ? null : all.attained >= all.objective;
  set("attained", "In time", (kept === null ? "" : kept ? "✓ " : "✕ ") + share(all.attained, 2), all.attained,
    all.objective === null ? "no latency budget" : `objective ${share(all.objective, 2)}`, kept === false ? "bad" : "");
  set("spill", "Spilled", share(all.spill_share), all.spill_share, "of the calls that ran");
  const started = all.start.warm + all.start.cold + all.start.unknown;
  set("warm", "Warm starts", started ? share(all.start.warm / started) : "–", started ? all.start.warm / started : null,
    `${count(all.start.cold)} cold · ${count(all.start.unknown)} unknown`);
  set("blended", "$ per 1,000", usd(all.usd_per_1k.blended, "–"), all.usd_per_1k.blended,
    `warm ${usd(all.usd_per_1k.warm, "–")} · spill ${usd(all.usd_per_1k.spill, "–")}`);
  const budgets = now.routes.map((each) => each.spill_budget).filter((each) => each && each.limit_usd !== null);
  const limit = budgets.reduce((sum, each) => sum + each.limit_usd, 0), spent = budgets.reduce((sum, each) => sum + each.spent_usd, 0);
  set("budget", "Spill budget", budgets.length ? usd(spent) : "no limit", budgets.length ? spent : null,
    budgets.length ? `of ${usd(limit)} used (${share(limit ? spent / limit : 0, 0)})` : `${usd(all.usd.spill)} spilled`,
    budgets.some(usedUp) ? "bad" : "");
}

// ---- spill budgets

const usedUp = (purse) => Boolean(purse && purse.left_usd !== null && purse.left_usd <= 0);

function spentOf(purse) {
  if (!purse) return "no limit";
  if (purse.limit_usd === null) return "a share of the calls";
  return `${usedUp(purse) ? "✕ used up: " : ""}${usd(purse.spent_usd)} of ${usd(purse.limit_usd)}`;
}

function budgetHeld(purse) {
  const parts = [];
  if (purse && purse.refused) parts.push(`${count(purse.refused)} not granted`);
  if (purse && purse.overrun) parts.push(`${count(purse.overrun)} beyond it`);
  return parts.join(", ");
}

function showMoney() {
  const { usd: spent, usd_per_1k: per } = now.total;
  const fleet = spent.warm === null ? null : spent.warm + (spent.idle || 0);
  put($("usd-warm"), usd(fleet) + (spent.idle ? ` (idle ${usd(spent.idle)})` : ""), fleet);
  put($("usd-spill"), usd(spent.spill), spent.spill);
  const whole = fleet === null || spent.spill === null ? null : fleet + spent.spill;
  put($("usd-all"), usd(whole), whole);
  for (const key of ["warm", "spill", "blended"]) put($("per-" + key), usd(per[key], "–"), per[key]);
  const list = $("one-more"), owned = now.backends.filter((each) => each.one_more);
  const sign = { saves: "✓ Yes.", costs: "✕ No.", buys: "✕ No, but faster.", may_save: "? Maybe.", equal: "= No difference.", unknown: "?" };
  if (list.children.length !== owned.length) swap(list, owned.map(() => h("li", {}, h("b"), h("span"), h("small"))));
  if (!owned.length && !list.children.length) swap(list, h("li", {}, h("b"), h("span", {}, "No tier is owned.")));
  owned.forEach((each, place) => {
    const [verdict, says, more] = list.children[place].children;
    list.children[place].className = each.one_more.verdict;
    put(verdict, `${sign[each.one_more.verdict]} `, each.one_more.usd);
    put(says, `${each.name}: ${each.one_more.says}`);
    const advised = each.recommended_replicas;
    put(more, advised === null ? "" : ` The objective is met at least cost with ${count(advised)}; there are ${count(each.replicas.length)}.`);
  });
}

// ---- cards

function stat(label) {
  const value = h("dd");
  return { value, root: h("div", { class: "stat" }, h("dt", {}, label), value) };
}

function meter(label) {
  const fill = s("rect", { class: "fill", height: 8, width: 0 });
  const bar = s("svg", { class: "meter", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "back", width: 100, height: 8 }), fill);
  const found = stat(label);
  found.root.append(bar);
  found.level = (share, bad) => {
    fill.setAttribute("width", Math.max(0, Math.min(100, 100 * share)));
    bar.setAttribute("class", "meter" + (bad ? " bad" : ""));
  };
  return found;
}

function routeCard(first) {
  const state = h("span", { class: "pill" }), chart = s("svg", { class: "spark", role: "img" });
  const key = h("p", { class: "key soft" }, h("i", { class: "k95" }), "p95 ", h("i", { class: "k50" }), "p50 ", h("i", { class: "kb" }), h("span"));
  const stats = Object.fromEntries([["latency", "p50 / p95, last 10 s"], ["all", "since the start"], ["spilled", "spilled"],
    ["starts", "starts"], ["money", "$ per 1,000 warm / spill / blended"], ["queue", "waiting"]].map(([id, label]) => [id, stat(label)]));
  const kept = meter("in time"), budget = meter("spill budget"), beside = h("dd", { class: "beside" });
  budget.root.append(beside);
  const why = h("ul", { class: "chips", "aria-label": "Calls by reason" });
  const root = h("article", { class: "card route", "data-route": first.name },
    h("div", { class: "title" }, h("h3", {}, first.name), state), h("p", { class: "soft path" }),
    h("figure", {}, chart, key),
    h("dl", { class: "stats" }, [stats.latency, stats.all, kept, stats.spilled, stats.starts, stats.money, budget, stats.queue].map((each) => each.root)), why);
  const path = root.querySelector(".path");
  return { root, show(route) {
    mark(state, route.ready ? "good" : "bad", route.ready ? "✓ served" : "✕ not served");
    put(path, `${route.match || "every call"} → ${route.backends.join(" → ")}`);
    const target = route.latency_budget, within = target ? target.within_s : null;
    const point = route.now || { p50: null, p95: null, per_s: 0 };
    sparkline(chart, past.get(route.name) || [], within, chart.clientWidth || 300);
    chart.setAttribute("aria-label", `Latency of ${route.name}: p50 ${seconds(point.p50)}, p95 ${seconds(point.p95)}`);
    put(key.lastElementChild, within === null ? "no latency budget" : `budget ${seconds(within)}`);
    put(stats.latency.value, `${seconds(point.p50)} / ${seconds(point.p95)}`, point.p95);
    put(stats.all.value, `${seconds(route.latency_s.p50)} / ${seconds(route.latency_s.p95)}`, route.latency_s.p95);
    const attained = target ? target.attained : null;
    const missed = attained !== null && attained < target.objective;
    put(kept.value, target ? `${attained === null ? "" : missed ? "✕ " : "✓ "}${share(attained, 2)} of ${count(target.calls)}, objective ${share(target.objective, 2)}` : "no latency budget", attained);
    kept.level(attained || 0, missed);
    put(stats.spilled.value, `${share(route.spill_share)} of ${count(route.requests)}`, route.spill_share);
    put(stats.starts.value, `${count(route.start.warm)} warm · ${count(route.start.cold)} cold · ${count(route.start.unknown)} unknown`, route.start.cold);
    const per = route.usd_per_1k;
    put(stats.money.value, `${usd(per.warm, "–")} / ${usd(per.spill, "–")} / ${usd(per.blended, "–")}`, per.blended);
    const purse = route.spill_budget;
    put(budget.value, spentOf(purse), purse ? purse.spent_usd : null);
    put(beside, budgetHeld(purse));
    budget.level(purse && purse.limit_usd ? purse.spent_usd / purse.limit_usd : 0, usedUp(purse));
    put(stats.queue.value, count(route.queue_depth), route.queue_depth);
    const found = Object.entries(route.reasons).filter(([, calls]) => calls).sort((a, b) => b[1] - a[1]);
    const text = JSON.stringify(found);
    if (why.dataset.text !== text) {
      why.dataset.text = text;
      swap(why, found.map(([word, calls]) => h("li", { title: reason(word) }, h("b", {}, count(calls)), " " + word.replaceAll("_", " "))));
    }
  } };
}

function tierCard(first) {
  const state = h("span", { class: "pill" }), bar = s("svg", { class: "slots", "aria-hidden": "true" });
  const legend = h("ul", { class: "legend", "aria-label": "Slots by state" }), facts = h("p", { class: "soft facts-line" });
  const list = h("ul"), several = h("details", {}, h("summary"), list);
  const root = h("article", { class: "card tier", "data-backend": first.name },
    h("div", { class: "title" }, h("h3", {}, first.name), state), h("p", { class: "soft kind" }), bar, legend, facts, several);
  const labels = new Map();
  return { root, show(tier) {
    const out = tier.replicas.filter((each) => each.ready === false || each.breaker !== "closed").length;
    mark(state, ...(tier.closed ? ["bad", "✕ down"] : out ? ["warn", `▲ ${out} of ${tier.replicas.length} out`] : ["good", "✓ ready"]));
    put(root.querySelector(".kind"), `${tier.type}, ${tier.owned ? "owned: always there" : "rented by use"} · ${count(tier.capacity)} slots`);
    slotBar(bar, tier.slots, bar.clientWidth || 240);
    for (const [word, label] of STATES) {
      if (!(word in tier.slots)) continue;
      if (!labels.has(word)) {
        labels.set(word, h("b"));
        legend.append(h("li", { class: word }, h("i", { "aria-hidden": "true" }, MARKS[word]), labels.get(word), " " + (word === "idle" && !tier.owned ? "idle, warm" : word === "idle" ? "free" : label)));
      }
      put(labels.get(word), count(tier.slots[word]), tier.slots[word]);
    }
    const parts = [tier.closed || `breaker ${["closed", "half open", "open"][tier.breaker]}`];
    if (tier.pushbacks) parts.push(`${count(tier.pushbacks)} refused as too many`);
    parts.push(tier.price_known ? `calls cost ${usd(tier.usd)}` : "price not known");
    if (tier.idle_usd) parts.push(`idle ${usd(tier.idle_usd)}`);
    if (tier.spill_budget) parts.push(["budget " + spentOf(tier.spill_budget), budgetHeld(tier.spill_budget)].filter((each) => each).join(", "));
    put(facts, parts.join(" · "));
    several.hidden = tier.replicas.length < 2;
    put(several.firstElementChild, `${count(tier.replicas.length)} replicas`);
    const text = JSON.stringify(tier.replicas);
    if (several.open && list.dataset.text !== text) {
      list.dataset.text = text;
      swap(list, tier.replicas.map((each) => h("li", {}, `${each.ready === false ? "✕ down" : each.breaker === "closed" ? "✓" : "▲ breaker " + String(each.breaker).replace("_", " ")} ${each.name}: ${each.in_flight} of ${each.capacity} in flight`)));
    }
  } };
}

// ---- decisions

function decisionRow(first) {
  const cells = Object.fromEntries(["when", "id", "route", "to", "took", "cost"].map((name) => [name, h("span", { class: name })]));
  const place = h("b"), why = h("small");
  cells.to.append(place, " ", why);
  const button = h("button", { type: "button", class: "row", "data-request": first.request_id, onclick: () => showRequest(first.request_id) }, Object.values(cells));
  return { root: h("li", {}, button), show(each) {
    const ended = each.ended;
    put(cells.when, ago(each.at, now.at));
    put(cells.id, each.request_id);
    put(cells.route, each.route);
    // What was decided may come to nothing: a spill budget has the last word, and who waits may give up.
    const shed = ended ? !ended.backend : each.do === "shed", held = !ended && each.do === "hold";
    put(place, shed ? "✕ not served" : held ? `◔ waits${each.backend ? ", opening " + each.backend : ""}` : `→ ${ended?.backend || each.backend}`);
    put(why, held ? "" : (ended?.reason || each.reason || "").replaceAll("_", " "));
    why.title = reason(ended?.reason || each.reason);
    button.className = "row" + (shed ? " shed" : held ? " held" : (ended?.reason || each.reason) === "warm" ? "" : " spilled");
    put(cells.took, ended ? seconds(ended.duration_s) : "running", ended ? ended.duration_s : null);
    put(cells.cost, ended ? (ended.inference && ended.attempts ? usd(ended.usd) : "–") : "…", ended ? ended.usd : null);
  } };
}

function showDecisions() {
  const list = $("decisions"), still = $("hold").checked;
  const held = still || list.matches(":hover") || list.contains(document.activeElement);
  if (!now.explains) put($("decisions-note"), "Decisions are not noted here.");
  const only = $("unusual").checked;
  const found = now.decisions.filter((each) => !only || each.do !== "run" || each.reason !== "warm");
  const byId = new Map(found.map((each) => [each.request_id, each]));
  if (held && rows.size) {
    for (const [id, row] of rows) if (byId.has(id)) row.show(byId.get(id));
    const newer = found.filter((each) => !rows.has(each.request_id)).length;
    put($("decisions-note"), newer ? `Held still while you are here: ${newer} newer.` : "Held still while you are here.");
    return;
  }
  const unique = [...byId.values()].slice(0, 60);
  keyed(list, rows, unique, (each) => each.request_id, decisionRow);
  put($("decisions-note"), unique.length ? `${unique.length} shown; any of the last 1,000 decisions can be asked for by its request id.` : "No call has been decided about yet.");
}

$("unusual").addEventListener("change", () => { rows.clear(); swap($("decisions")); if (now) showDecisions(); });
$("hold").addEventListener("change", () => { if (now) showDecisions(); });
$("find").addEventListener("submit", (event) => { event.preventDefault(); showRequest($("find-id").value.trim()); });
$("why-close").addEventListener("click", () => $("why").close());
$("why").addEventListener("click", (event) => { if (event.target === $("why")) $("why").close(); });

// ---- configuration

function showConfig() {
  const { revision, since, rejected } = now.config;
  put($("config-running"), `✓ Running revision ${revision} since ${since}.`);
  const box = $("config-rejected"), text = JSON.stringify(rejected);
  if (box.dataset.text === text) return;
  box.dataset.text = text;
  if (!rejected) { swap(box, h("p", { class: "soft" }, "No file has been rejected since.")); return; }
  swap(box, h("p", { class: "error" }, `✕ A file was rejected at ${rejected.at} and changed nothing: ${count(rejected.count)} ${rejected.count === 1 ? "problem" : "problems"}.`),
    h("ul", { class: "problems" }, rejected.problems.map((each) => h("li", {}, h("code", {}, [each.file, each.line, each.column].filter((part) => part !== null && part !== undefined).join(":")), ` ${each.path}: `, each.message))));
}

$("config-text").addEventListener("toggle", async () => {
  const pre = $("config-text").querySelector("pre");
  if (!$("config-text").open) return;
  try {
    const response = await fetch("admin/config", { headers: { accept: "application/json" } });
    put(pre, (await response.json()).running.text);
  } catch (error) { put(pre, `It could not be read: ${error.message}`); }
});

setInterval(live, 500);
addEventListener("resize", () => { if (now) show(); });
connect();
