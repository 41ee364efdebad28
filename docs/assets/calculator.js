// What a stake backs, how often work is audited, and what a cheat expects: the formulas of docs/verification.md in binary64.
// Verifiers and the contract compute them in whole numbers (dial.py, Dial.sol); a test holds the two together.
"use strict";

const COLLUSION = 0.3; // auditors assumed to collude, of all
const GIVEN_BACK = 0.3; // of a slashed stake, what may come back through friends
const TRUST_FROM = 10;

/** What follows for an owner with `stake` and `valid` consecutive valid audits, with `tasks` tasks of `reward` each in
 * flight, of `segments` segments of which `drawn` are executed again by `auditors` auditors where a task is audited. */
function reckon({ stake, valid, tasks, reward, segments, drawn, auditors }) {
  const atRisk = stake * (1 - GIVEN_BACK);
  const backs = (atRisk * (1 - 2 * COLLUSION)) / (2 * COLLUSION);
  const inFlight = tasks * reward;
  const q = inFlight / ((1 - COLLUSION) * (atRisk + inFlight));
  const x = q >= 1 ? 1 : inFlight > 0 ? -Math.expm1(Math.log1p(-q) / tasks) : 0;
  const m = Math.min(drawn, segments);
  const floor = Math.min(1, (x * segments) / m);
  const trust = valid < TRUST_FROM ? 1 : 1 / valid;
  const audited = Math.max(floor, trust);
  const executed = Math.max(m, Math.ceil(x * segments - 1e-9));
  const seen = (audited * executed) / segments;
  const caught = seen >= 1 ? 1 : -Math.expm1(tasks * Math.log1p(-seen));
  return {
    atRisk,
    backs,
    inFlight,
    affordable: inFlight <= backs,
    audited,
    executed,
    seen,
    cost: auditors * seen,
    caught,
    gain: inFlight - (1 - COLLUSION) * caught * (atRisk + inFlight),
  };
}

const FIELDS = { stake: 1, valid: 0, tasks: 1, reward: 0, segments: 1, drawn: 1, auditors: 2 }; // with the least of each

function show(form) {
  const values = {};
  for (const [name, least] of Object.entries(FIELDS)) {
    const value = Number(form.elements[name].value);
    if (!Number.isFinite(value) || value < least) {
      form.querySelector("[data-error]").textContent = `${form.elements[name].labels[0].textContent}: at least ${least}`;
      return;
    }
    values[name] = value;
  }
  form.querySelector("[data-error]").textContent = "";
  const found = reckon(values);
  const percent = (part) => `${(100 * part).toPrecision(3)} %`;
  const credits = (amount) => `${Number(amount.toPrecision(4)).toLocaleString("en")} CREDIT`;
  const texts = {
    atRisk: credits(found.atRisk),
    backs: credits(found.backs),
    inFlight: credits(found.inFlight) + (found.affordable ? "" : ": more than the stake backs, so less is offered"),
    audited: percent(found.audited),
    executed: `${found.executed} of ${values.segments}, by ${values.auditors} auditors each`,
    cost: percent(found.cost),
    caught: percent(found.caught),
    gain: credits(found.gain),
  };
  for (const [name, text] of Object.entries(texts)) {
    form.querySelector(`[data-shows=${name}]`).textContent = text;
  }
}

if (typeof module !== "undefined") {
  module.exports = { reckon };
} else {
  document.addEventListener("DOMContentLoaded", () => {
    const form = document.getElementById("reckoner");
    if (form) {
      form.addEventListener("input", () => show(form));
      form.addEventListener("submit", (event) => event.preventDefault());
      show(form);
    }
  });
}
