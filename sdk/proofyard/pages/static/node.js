// A node's page, for its operator: what it does and earns, what the machine measures, and what may be commanded.
// The token comes in the address's fragment, is kept for this tab, and leaves it in one header alone.

import { ask, badge, bar, bytes, clock, code, command, count, credits, el, facts, follow, moment, plural, Refused, section, setState, show, table, tiles } from "./parts.js";

const KEY = "proofyard-node-token", HEADER = "X-Proofyard-Token";
const main = document.getElementById("main");

let shown = null, said = "", wrong = "", since = null;
let passing = false; // what is said holds until the node's state changes

function takeToken() {
  const given = location.hash.slice(1);
  if (/^[\w-]{20,100}$/.test(given)) {
    sessionStorage.setItem(KEY, given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem(KEY);
}

const headers = () => ({ [HEADER]: sessionStorage.getItem(KEY) ?? "" });

async function order(path, body) {
  try {
    await ask(path, { method: "POST", headers: { ...headers(), "Content-Type": "application/json" }, body: JSON.stringify(body) });
    return true;
  } catch (error) {
    wrong = error.message;
    said = "";
    draw();
    return false;
  }
}

// What is shown

function locked(reason) {
  show(main,
    el("div", { class: "title" }, el("h1", {}, "This page needs its token")),
    section("Open it",
      el("p", {}, "Ask the node on this machine for the address that has it, and open that:"),
      command("proofyard node page"),
      reason ? el("p", { class: "bad", role: "alert" }, reason) : null,
      el("p", { class: "quiet" }, "The token says that you are who runs the node. It stays in this tab.")));
  setState("away", "Locked");
}

function draw() {
  const { status, done } = shown;
  const paused = status.limits.paused_until !== 0 && (status.limits.paused_until < 0 || status.limits.paused_until > status.at);
  show(main,
    el("div", { class: "title" }, el("h1", {}, status.reason ? "Takes no work" : shown.held.length ? "At work" : "Waits for work"),
      status.reason ? badge(paused ? "paused" : "closed", "warn") : badge("open", "good"), el("p", { class: "quiet" }, code(status.address), ` ${shown.software}`)),
    wrong ? el("p", { class: "notice bad", role: "alert" }, wrong) : null,
    shown.trouble ? el("p", { class: "notice", role: "note" }, `From the chain: ${shown.trouble}`) : null,
    status.blind.map((spot) => el("p", { class: "notice" }, `Not kept: ${spot}`)),
    section("Work",
      status.reason ? el("p", {}, status.reason) : null,
      shown.held.length ? el("ul", { class: "plain" }, shown.held.map(held)) : el("p", { class: "quiet" }, "It holds nothing."),
      el("p", { class: "quiet" }, status.verifiers.length ? `Joined ${plural(status.verifiers.length, "verifier")}.` : "No verifier is connected."),
      buttons(paused),
      el("p", { role: "status", class: "quiet" }, said)),
    section("Earnings", earnings(shown.pay, shown.energy)),
    el("div", { class: "pair" },
      section("At stake", stake(shown.standing)),
      section("This machine", machine(shown.gpus, status, shown.backend))),
    section("Done and refused",
      tiles(["Tasks done", count(done.tasks)], ["Audits done", count(done.audits)], ["Refused", count(Object.values(done.refused).reduce((a, b) => a + b, 0))],
        ["Given back", count(done.given_back)], ["Came while busy", count(done.later)]),
      el("p", { class: "quiet" }, `Since it started, ${moment(done.since)}.`),
      table("Reasons for refusals", [["Times", ([, many]) => count(many), "number"], ["Reason", ([reason]) => reason]], Object.entries(done.refused), "Nothing was refused."),
      done.recent.length ? el("h3", {}, "Latest") : null,
      done.recent.length ? table("The latest that was refused or given back", [["When", (each) => el("time", {}, clock(each.at))], ["What", (each) => each.what], ["What became of it", (each) => badge(each.given_back ? "given back" : "refused")], ["Reason", (each) => each.reason]], done.recent, "") : null),
    section("Limits", limitsForm(status.limits)));
  document.title = `${main.querySelector("h1").textContent} – Proofyard node`;
}

const held = (work) =>
  el("li", {}, work.under_way ? badge("under way", "good") : badge("waits"), ` ${work.name}`,
    work.under_way && work.segments > 1 ? bar(work.done, work.segments, `${work.done} of ${work.segments} segments`) : null);

function buttons(paused) {
  const pause = (minutes, text) => el("button", { type: "button", "data-act": "pause", "data-minutes": minutes }, text);
  return el("div", { class: "actions", role: "group", "aria-label": "Pause and resume" },
    paused ? el("button", { type: "button", class: "main", "data-act": "resume", "data-key": "resume" }, "Resume")
      : [el("button", { type: "button", class: "main", "data-act": "pause", "data-key": "pause" }, "Pause"), pause(60, "Pause for an hour"),
        el("button", { type: "button", "data-act": "pause", "data-hand-back": true, "data-key": "now" }, "Pause, and give back what is under way")]);
}

function earnings(pay, energy) {
  if (!pay) return el("p", { class: "quiet" }, "Not known yet.");
  const power = !energy || !energy.seconds ? "nothing done" : energy.measured_s + energy.stated_s < 1 ? "not measured" : `${(energy.measured_kwh + energy.stated_kwh).toFixed(3)} kWh`;
  return [
    tiles(["Unpaid balance", credits(pay.unpaid), `${credits(pay.due)} can be claimed`], ["Last hour", credits(pay.hour)], ["Last day", credits(pay.day)],
      ["Projected a day", pay.a_day === null ? "–" : credits(pay.a_day), pay.a_day === null ? "after an hour of pay" : "at the last week's pace"],
      ["Last week", credits(pay.week), plural(pay.batches, "batch", "batches")], ["Power, last day", power]),
    pay.unread ? el("p", { class: "quiet" }, `${plural(pay.unread, "batch", "batches")} not settled, or not read yet.`) : null,
    el("p", { class: "quiet" }, `As settled on chain, ${clock(pay.at)}.`),
  ];
}

function stake(standing) {
  if (!standing) return el("p", { class: "quiet" }, "Not registered, or not known yet.");
  return facts(
    ["Stake", credits(standing.stake)],
    ["At risk", `all of it, for a result that does not follow`],
    ["Held by faults", el("span", { class: standing.frozen === "0" ? "" : "bad" }, credits(standing.frozen))],
    ["On its way out", credits(standing.unbonding)],
    ["Valid in a row", plural(standing.consecutive_valid, "audit")],
    ["Rank", `${standing.rank} of ${plural(standing.nodes, "node")}`],
    ["State", standing.active ? "active" : el("span", { class: "bad" }, "not active: its owner's stake is too little, or it has left")],
    ["Operator", `${standing.operator}, of ${standing.owner}`]);
}

function machine(gpus, { sample, sandbox }, backend) {
  const told = (value, unit) => (value === null || value === undefined ? "not told" : `${Math.round(value)} ${unit}`);
  const cards = gpus.map((gpu) => el("li", {}, el("strong", {}, `GPU ${gpu.index}: ${gpu.name}`),
    facts(["Load", told(gpu.utilization, "%")], ["Memory", gpu.used_bytes === null ? bytes(gpu.memory_bytes) : bar(gpu.used_bytes, gpu.memory_bytes, `${bytes(gpu.used_bytes)} of ${bytes(gpu.memory_bytes)}`)],
      ["Temperature", told(gpu.celsius, "°C")], ["Power", told(gpu.watts, "W")])));
  return [
    cards.length ? el("ul", { class: "plain" }, cards) : el("p", { class: "quiet" }, backend.includes("cuda") ? "nvidia-smi says nothing here: load, memory, temperature and power of the GPU are not known." : "This node computes on the processor: there is no GPU to be measured."),
    facts(["Computes by", backend || "nothing: this machine does not give the right bits"],
      ["Jobs are held by", sandbox || el("span", { class: "bad" }, "nothing: they can do what the node's user can")], sample.free_bytes === undefined ? null : ["Free memory", bytes(sample.free_bytes)],
      sample.celsius === undefined || cards.length ? null : ["Processor", told(sample.celsius, "°C")], sample.others_cores === undefined ? null : ["Others keep busy", `${sample.others_cores.toFixed(1)} of ${plural(sample.cores, "core")}`]),
  ];
}

const FIELDS = [
  ["hours", "Hours of the day, such as 22-6", "text"], ["cheap_hours", "Hours of cheap power", "text"], ["max_watts", "Most power, W", "number"],
  ["max_celsius", "Most warmth, °C", "number"], ["max_upload", "Most upload, bytes a second", "number"], ["least_free_bytes", "Memory left free, bytes", "number"],
];

/** Drawn once: what is typed stays. Whoever changes limits elsewhere gets a fresh form here, unless somebody is at it. */
function limitsForm(limits) {
  const { paused_until: _, ...own } = limits;
  const form = document.getElementById("limits");
  const busy = form && (form.dataset.dirty || form.contains(document.activeElement));
  const key = busy ? form.dataset.key : JSON.stringify(own);
  return el("form", { id: "limits", "data-keep": true, "data-key": key },
    el("div", { class: "fields" }, FIELDS.map(([name, label, type]) => el("div", {}, el("label", { for: name }, label),
      el("input", { id: name, name, type, min: type === "number" ? 0 : null, maxlength: 200, value: own[name] || "", placeholder: "no limit", autocomplete: "off" }))),
      el("label", { class: "check" }, el("input", { type: "checkbox", name: "idle_only", checked: own.idle_only }), "Only while nobody else uses the machine")),
    el("div", { class: "actions" }, el("button", { class: "main" }, "Keep to these")));
}

// What is done

document.addEventListener("input", (event) => {
  const form = event.target.closest?.("#limits");
  if (form) form.dataset.dirty = "yes";
});

document.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target, changes = { idle_only: form.elements.idle_only.checked };
  for (const [name, , type] of FIELDS) changes[name] = type === "number" ? Number(form.elements[name].value) : form.elements[name].value;
  if (await order("/v1/limits", changes)) told("The node keeps to these limits within seconds.", false, () => delete form.dataset.dirty);
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-act]");
  if (!button) return;
  button.disabled = true;
  const { act, minutes, handBack } = button.dataset;
  const body = act === "pause" ? { minutes: minutes ? Number(minutes) : null, hand_back: handBack !== undefined } : {};
  const done = await order(`/v1/${act}`, body);
  button.disabled = false;
  if (done) told(act === "pause" ? "It takes nothing new; this shows within seconds." : "It takes work again within seconds.", true);
});

function told(text, untilChange, also = () => {}) {
  [said, wrong, passing] = [text, "", untilChange];
  also();
  draw();
}

let stop = () => {};

function listen() {
  stop();
  if (!sessionStorage.getItem(KEY)) return locked("");
  stop = follow("/v1/events", {
    headers: headers(),
    onOpen: () => {
      since = null;
      setState("live", "Live");
    },
    onEvent: (found) => {
      const before = shown?.status.reason;
      shown = found;
      if (passing && before !== undefined && before !== found.status.reason) said = "";
      draw();
    },
    onAway: (error) => {
      if (error instanceof Refused && error.status === 401) {
        stop();
        sessionStorage.removeItem(KEY);
        return locked("The node does not know this token: it may have a new one.");
      }
      since ??= Date.now() / 1000;
      setState("away", `The node is away since ${clock(since)}: ${error instanceof Refused && error.status ? error.message : "it does not answer"}`);
    },
  });
}

addEventListener("hashchange", () => takeToken() && listen());
document.addEventListener("visibilitychange", () => (document.hidden ? stop() : listen()));
takeToken();
listen();
