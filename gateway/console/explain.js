// Why a call went where it went, or would go: the answers of /admin/explain as a page, and the what-if form.

import { count, h, put, reason, seconds, share, swap, usd } from "./draw.js";

async function ask(question) {
  const response = await fetch("admin/explain", {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(question),
  });
  let answer;
  try { answer = await response.json(); } catch { throw new Error(`the gateway answered ${response.status}`); }
  if (!response.ok) throw new Error(answer.error || `the gateway answered ${response.status}`);
  return answer;
}

// ---- one explanation

function candidates(found) {
  const objective = found.objective ?? 0.99;
  const head = ["way", "start", "waits", "finishes", `${share(objective, 0)} by`, "in time", "costs", "why"];
  const rows = found.candidates.map((each) => {
    const closed = each.way === "closed", none = closed ? "–" : "not known";
    const cells = [
      closed ? "–" : each.start, seconds(each.waits_s, none), seconds(each.finish_s, none),
      seconds(each.tail_s, none), each.chance === null ? "–" : share(each.chance), closed ? "–" : usd(each.usd), each.why,
    ];
    return h("tr", { class: each.chosen ? "chosen" : closed ? "closed" : "" },
      h("th", { scope: "row" }, each.chosen ? h("b", { class: "pick" }, "▶ chosen ") : null, each.backend, h("small", {}, " " + each.way)),
      cells.map((text, place) => h("td", { "data-label": head[place + 1], class: place === 6 ? "reason" : "" }, text)));
  });
  return h("table", { class: "candidates" },
    h("caption", {}, "Every way in which the call could be answered"),
    h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, rows));
}

function decided(found, title) {
  const budget = found.within_s === null || found.within_s === undefined ? "no latency budget"
    : `budget ${seconds(found.within_s)} for ${share(found.objective, 1)} of the calls`;
  const waited = found.waited_s ? `, after waiting ${seconds(found.waited_s)}` : "";
  return h("section", { class: "decided" },
    title ? h("h3", {}, title) : null,
    h("p", { class: "says" }, found.says + waited),
    h("p", { class: "soft" }, `Rule: ${found.rule}`),
    h("p", { class: "soft" }, `Route ${found.route}, ${budget}. ${count(found.waiting || 0)} calls waited.`),
    candidates(found));
}

function story(answer) {
  const last = answer.decisions[answer.decisions.length - 1], ended = answer.ended;
  const chosen = last.candidates.find((each) => each.chosen);
  const parts = [];
  if (ended === null || ended === undefined) {
    parts.push(h("p", { class: "verdict" }, "It has not ended yet, or its account is no longer kept. Predicted: ",
      chosen ? `${usd(chosen.usd)} on ${chosen.backend}, finished after ${seconds(chosen.finish_s, "a time not known")}.` : "nothing."));
    return parts;
  }
  const where = ended.backend ? ["It went to ", h("b", {}, ended.backend), ` because ${reason(ended.reason)}.`]
    : [`It was not served: ${reason(ended.reason)}.`];
  const cost = !ended.inference ? "It was a question about a model, and costs nothing."
    : !ended.attempts ? "No backend had it, so it cost nothing."
    : ended.usd === null ? "What it cost is not known." : null;
  parts.push(h("p", { class: "verdict" }, ...where, " ", ...(cost ? [cost] : ["It cost ", h("b", { "data-value": ended.usd }, usd(ended.usd)),
    chosen && chosen.usd === 0 ? ", its share of a fleet that is paid for anyway." : chosen && chosen.usd !== null ? ` (predicted ${usd(chosen.usd)}).` : "."])));
  const facts = [
    ["outcome", `${String(ended.outcome).replaceAll("_", " ")}, status ${ended.status}`],
    ["took", `${seconds(ended.duration_s)}${last.within_s ? ` of ${seconds(last.within_s)}` : ""}`],
    ["waited", seconds(ended.queued_s)], ["start", ended.start ?? "–"], ["attempts", count(ended.attempts)],
    ["model", ended.model || "–"], ["operation", ended.operation || "–"], ["replica", ended.replica || "–"],
  ];
  parts.push(h("dl", { class: "facts" }, facts.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text)))));
  return parts;
}

export function showRequest(id) {
  const dialog = document.getElementById("why"), body = document.getElementById("why-body");
  const title = document.getElementById("why-title");
  put(title, `Request ${id}`);
  swap(body, h("p", { class: "soft" }, "Asking…"));
  if (!dialog.open) dialog.showModal();
  ask({ request_id: id }).then((answer) => {
    const last = answer.decisions[answer.decisions.length - 1];
    const place = answer.ended ? answer.ended.backend : last.action.backend;
    put(title, place ? `Why did request ${id} go to ${place}?` : `Why was request ${id} not served${answer.ended ? "" : " at once"}?`);
    const several = answer.decisions.length > 1;
    swap(body, story(answer), answer.decisions.map((each, place) =>
      decided(each, several ? `Decision ${place + 1} of ${answer.decisions.length}, ${seconds(each.ago_s)} ago` : "")));
  }, (error) => swap(body, h("p", { class: "error", role: "alert" }, error.message)));
}

// ---- the form

const OWNED = [["in_flight", "in flight"], ["replicas_down", "replicas down"], ["breaker_open", "breaker open"]];
const RENTED = [["in_flight", "in flight"], ["warm", "idle, warm"], ["opening", "booting, up in 1 s"], ["breaker_open", "breaker open"]];

export class WhatIf {
  constructor() {
    this.form = document.getElementById("whatif");
    this.answer = document.getElementById("whatif-answer");
    this.suppose = document.getElementById("suppose");
    this.now = null;
    this.names = "";
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.ask(); });
    this.form.addEventListener("change", (event) => {
      if (event.target.name === "state" || event.target.name === "route") this.choose();
    });
  }

  follow(now) {
    this.now = now;
    const names = now.routes.map((each) => each.name);
    if (names.join("\n") === this.names) return;
    this.names = names.join("\n");
    const select = document.getElementById("whatif-route"), before = select.value;
    swap(select, names.map((name) => h("option", { value: name }, name)));
    if (names.includes(before)) select.value = before;
    this.choose();
  }

  choose() {
    const supposed = this.form.elements.state.value === "suppose";
    this.suppose.hidden = !supposed;
    const route = this.now?.routes.find((each) => each.name === this.form.elements.route.value);
    if (!supposed || !route) return;
    const tiers = this.now.backends.filter((each) => route.backends.includes(each.name));
    swap(this.suppose, tiers.map((tier) => this.tier(tier)),
      h("fieldset", {}, h("legend", {}, "Queue"), field("waiting", "calls that wait", route.queue_depth, 1000)));
  }

  tier(tier) {
    const slots = tier.slots;
    const values = { in_flight: tier.in_flight, warm: slots.idle || 0, opening: slots.opening || 0,
      replicas_down: tier.replicas.filter((each) => each.ready === false).length,
      breaker_open: tier.replicas.filter((each) => each.ready !== false && each.breaker === "open").length };
    const fields = tier.owned ? OWNED : RENTED;
    return h("fieldset", { "data-backend": tier.name }, h("legend", {}, `${tier.name} (${count(tier.capacity)} slots)`),
      fields.map(([key, label]) => field(key, label, values[key], tier.capacity)));
  }

  state() {
    const backends = {};
    for (const set of this.suppose.querySelectorAll("fieldset[data-backend]")) {
      const entry = {};
      for (const input of set.querySelectorAll("input")) {
        const number = Math.max(0, Math.floor(Number(input.value) || 0));
        if (number) entry[input.name] = input.name === "opening" ? Array(Math.min(number, 1000)).fill("1s") : number;
      }
      backends[set.dataset.backend] = entry;
    }
    const waiting = Math.floor(Number(this.form.elements.waiting?.value) || 0);
    return { backends, queue: waiting > 0 ? [{ calls: waiting }] : [] };
  }

  ask() {
    const elements = this.form.elements;
    const question = { route: elements.route.value, priority: elements.priority.value, stream: elements.stream.checked };
    if (elements.size.value !== "") question.size = Number(elements.size.value);
    if (elements.state.value === "suppose") question.state = this.state();
    ask(question).then((found) => swap(this.answer, decided(found, found.supposed ? "In the supposed state" : "As it is now")),
      (error) => swap(this.answer, h("p", { class: "error", role: "alert" }, error.message)));
  }
}

function field(name, label, value, most) {
  return h("label", {}, label + " ", h("input", { type: "number", name, min: 0, max: most, step: 1, value }));
}
