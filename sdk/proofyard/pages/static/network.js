// A verifier's page: jobs with their curves, tasks and proofs, nodes, audits, disputes. Reads /v1 and nothing else.

import { ask, badge, bar, clock, code, command, count, credits, curves, el, facts, follow, graph, moment, paced, plural, Refused, section, setState, short, show, table, tiles, until } from "./parts.js";

const main = document.getElementById("main");
const SHOWN = 20, TASKS = 100, GRAPH = 200, AUDITS = 100, LINES = 40;
const WINDOWS = 20, WINDOW = 250, MOST_POINTS = 20000;
const EVERY_MS = 2000, IDLE_MS = 10000;

const KINDS = {
  done: "good", accepted: "good", settled: "good", final: "good", valid: "good", ok: "good", rejected: "good",
  failed: "bad", fault: "bad", dropped: "bad", upheld: "bad", faulty: "bad",
  given: "warn", committed: "warn", pending: "warn", undecided: "warn", auditing: "warn", vote: "warn", draw: "warn", answer: "warn",
};
const state = (text) => badge(text, KINDS[text]);
const jobLink = (id) => el("a", { href: `#job/${id}` }, id);
const batchLink = (id) => (id === null ? "not on chain yet" : el("a", { href: `#batch/${id}` }, id));

let now = 0; // of the chain's clock, as last told
let log = null; // of the job that is shown
let pages = 1; // of jobs that are shown

// The job that is shown: its log, sampled evenly where it is long

class Log {
  constructor(job) {
    this.job = job;
    this.last = 0;
    this.cut = false;
    this.lines = [];
    this.points = new Map(); // task: [[at, loss], ...]
    this.size = 0;
  }

  async begin(total) {
    const windows = Math.min(WINDOWS, Math.ceil(total / WINDOW));
    this.cut = windows * WINDOW < total;
    for (let place = 0; place < windows; place++) {
      const after = place === windows - 1 ? Math.max(0, total - WINDOW) : Math.floor((place * total) / windows);
      await this.read(Math.max(after, this.last), WINDOW);
    }
    await this.catchUp();
  }

  async read(after, limit) {
    const page = await ask(`/v1/jobs/${this.job}/log?cursor=${after}&limit=${limit}`);
    page.items.forEach((line) => this.add(line));
    return page.next;
  }

  async catchUp() {
    for (let more = true, asked = 0; more && asked < WINDOWS; asked++) more = await this.read(this.last, 500);
  }

  /** A line as it comes; one that is not the next waits until what is between is asked for. */
  take(line) {
    if (line.seq === this.last + 1) this.add(line);
  }

  add(line) {
    if (line.seq <= this.last) return;
    this.last = line.seq;
    this.lines.push(line);
    if (this.lines.length > LINES) this.lines.shift();
    if (line.kind !== "progress" || line.loss === null || line.task === null || this.size >= MOST_POINTS) return;
    if (!this.points.has(line.task)) this.points.set(line.task, []);
    this.points.get(line.task).push([line.at, line.loss]);
    this.size += 1;
  }

  series(labels) {
    const began = Math.min(...[...this.points.values()].map((points) => points[0][0]));
    return [...this.points].sort(([one], [other]) => one - other).map(([task, points]) => ({
      name: labels.get(task) ?? `task ${task}`, points: points.map(([at, loss]) => [at - began, loss]),
    }));
  }
}

// Views

async function overview() {
  const asked = [ask("/v1/status"), readiness(), jobs(), ask(`/v1/batches?limit=${SHOWN}`)];
  const [status, ready, found, batches] = await Promise.all(asked);
  now = status.chain_time;
  const running = found.items.filter((job) => !["done", "failed"].includes(job.state)).length;
  return [
    el("div", { class: "title" }, el("h1", {}, "What this verifier does"), el("p", { class: "quiet" }, code(status.verifier), status.operator ? ` operator ${status.operator}` : " not registered", `, chain ${status.chain_id}`)),
    troubles(ready),
    tiles(
      ["Jobs under way", count(running), found.next ? "of the newest" : plural(found.items.length, "job") + " in all"],
      ["Nodes", count(status.nodes), "connected"],
      ["Block", count(status.block), now ? `at ${clock(now)}` : ""],
      ["Ready", ready.ready ? "yes" : "no", status.version ? `version ${status.version}` : "", ready.ready ? "good" : "bad"],
    ),
    section("Jobs", jobTable(found.items), found.next ? el("p", { class: "actions" }, el("button", { type: "button", "data-act": "more" }, "Show older jobs")) : null),
    section("Batches", batchTable(batches.items)),
  ];
}

/** A verifier that is not ready says so with status 503. */
async function readiness() {
  try {
    return await ask("/ready");
  } catch (error) {
    if (error.found?.checks) return error.found;
    throw error;
  }
}

async function jobs() {
  const items = [];
  let next = null;
  for (let page = 0; page < pages; page++) {
    const found = await ask(`/v1/jobs?limit=${SHOWN}${next ? `&cursor=${next}` : ""}`);
    items.push(...found.items);
    next = found.next;
    if (!next) break;
  }
  return { items, next };
}

const troubles = (ready) =>
  ready.ready ? null : el("div", { class: "notice", role: "note" }, el("strong", {}, "Not ready. "),
    ready.checks.filter((check) => !check.holds).map((check) => `${check.name}: ${check.reason}`).join("; "));

const jobTable = (items) =>
  table("Jobs, the newest first", [
    ["Job", (job) => jobLink(job.id)],
    ["State", (job) => [state(job.state), job.reason ? el("small", {}, job.reason) : null]],
    ["Workload", (job) => job.workload],
    ["Tasks", (job) => count(job.tasks), "number"],
    ["Work paid", (job) => paidBar(job)],
    ["Reward", (job) => credits(job.reward), "number"],
    ["Requester", (job) => short(job.requester)],
  ], items, "No jobs yet. One appears here as soon as somebody opens it with this verifier.");

const paidBar = (job) => {
  const share = job.units === "0" ? 0 : Number((BigInt(job.units_paid) * 1000n) / BigInt(job.units)) / 10;
  return bar(share, 100, `${share}%`);
};

const batchTable = (items) =>
  table("Batches, the newest first", [
    ["Batch", (batch) => batchLink(batch.batch)],
    ["State", (batch) => [state(batch.state), batch.reason ? el("small", {}, batch.reason) : null]],
    ["Jobs", (batch) => [batch.lines.slice(0, 8).map((line, place) => [place ? ", " : "", jobLink(line.job)]), batch.lines.length > 8 ? ` and ${batch.lines.length - 8} more` : ""]],
    ["Settled in block", (batch) => (batch.settled_block ? count(batch.settled_block) : "–"), "number"],
    ["Record", (batch) => (batch.record ? short(batch.record) : "none yet")],
  ], items, "No batches yet. Finished tasks are committed on chain in batches, and audited there.");

async function oneJob(id) {
  const [status, detail, tasks, audits, faults] = await Promise.all([
    ask("/v1/status"), ask(`/v1/jobs/${id}`), ask(`/v1/jobs/${id}/tasks?limit=${GRAPH}`), ask(`/v1/jobs/${id}/audits?limit=${AUDITS}`), ask(`/v1/jobs/${id}/faults?limit=50`),
  ]);
  now = status.chain_time;
  const told = await follows(id, detail.log_lines);
  const { job } = detail;
  const batches = await Promise.all(detail.batches.slice(-10).reverse().map((batch) => ask(`/v1/batches/${batch}`).catch(() => null)));
  const labels = new Map(tasks.items.map((task) => [task.task, task.label]));
  const accepted = detail.task_states.accepted ?? 0;
  return [
    el("div", { class: "title" }, el("h1", {}, `Job ${id}`), state(job.state), job.reason ? el("p", { class: job.state === "failed" ? "bad" : "quiet" }, job.reason) : null),
    el("div", { class: "pair" },
      section("Progress",
        bar(accepted, job.tasks, `${accepted} of ${plural(job.tasks, "task")} accepted`),
        el("p", { class: "quiet" }, Object.entries(detail.task_states).map(([name, many]) => `${many} ${name}`).join(", ") || "its tasks are not known yet"),
        facts(["Workload", job.workload || "not known yet"], ["Requester", code(job.requester)],
          ["Deadline", `${until(job.deadline, now)} (${moment(job.deadline)})`], ["Manifest", code(job.manifest)])),
      section("Cost so far", cost(job))),
    section("Loss", told.points.size ? [curves(told.series(labels), "Loss over time", main.clientWidth - 70), el("p", { class: "quiet" }, `As the workers report it: nobody's proof.${told.cut ? " Of a long log, even samples are drawn." : ""}`)]
      : el("p", { class: "quiet" }, "No losses have been reported yet.")),
    section("Tasks",
      tasks.items.length ? graph(tasks.items.map((task) => ({ index: task.task, label: task.label, state: task.state, deps: task.deps })), "What each task rests on") : null,
      tasks.next ? el("p", { class: "quiet" }, `The first ${tasks.items.length}; `, el("a", { href: `/v1/jobs/${id}/tasks` }, "all of them")) : null,
      taskTable(tasks.items.slice(0, TASKS))),
    section("Result and proofs", proofs(job, batches.filter(Boolean))),
    section("Audits and verdicts", auditTable(audits.items), audits.next ? el("p", { class: "quiet" }, `The first ${audits.items.length}; `, el("a", { href: `/v1/jobs/${id}/audits` }, "all of them")) : null),
    faults.items.length ? section("Faults", faultTable(faults.items)) : null,
    section("Why", el("div", { id: "why", "data-keep": true, "data-key": `why-${id}` }, el("button", { type: "button", "data-act": "why", "data-job": id }, "Explain where it stands"))),
    section("Log", el("ol", { class: "log", tabindex: "0", "aria-label": "The newest lines of the log" },
      [...told.lines].reverse().map((line) => el("li", {}, el("time", {}, clock(line.at)), `${line.kind}${line.task === null ? "" : ` task ${line.task}`}: ${line.text}${line.loss === null ? "" : `, loss ${line.loss.toPrecision(4)}`}`)))),
  ];
}

/** Have the log of a job up to a line; it is begun once, however many look at the same time. */
async function follows(id, total) {
  if (log?.job !== id) {
    log = new Log(id);
    log.begun = log.begin(total);
  }
  const own = log;
  try {
    await own.begun;
  } catch (error) {
    if (log === own) log = null;
    throw error;
  }
  if (own.last < total) await own.catchUp();
  return own;
}

function cost(job) {
  const share = (amount) => (job.units === "0" ? 0n : (BigInt(amount) * BigInt(job.units_paid)) / BigInt(job.units));
  const all = BigInt(job.reward) + BigInt(job.audit_fee) + BigInt(job.verifier_fee);
  const spent = share(job.reward) + share(job.audit_fee) + share(job.verifier_fee);
  return [
    tiles(["Spent, at most", credits(spent), `of ${credits(all)} in escrow`]),
    facts(["Work", `${credits(share(job.reward))} of ${credits(job.reward)}`], ["Audits, at most", `${credits(share(job.audit_fee))} of ${credits(job.audit_fee)}`],
      ["Verifiers, at most", `${credits(share(job.verifier_fee))} of ${credits(job.verifier_fee)}`]),
    el("p", { class: "quiet" }, "By the work units that are settled. What is not spent comes back."),
  ];
}

function proofs(job, batches) {
  return [
    job.result ? facts(["Result", code(job.result)]) : el("p", { class: "quiet" }, job.state === "failed" ? "It failed: there is no result." : "There is no result yet."),
    job.result ? [command(`proofyard job result ${job.id} OUT`), el("p", { class: "quiet" }, "fetches the result and holds every block of it against its CID.")] : null,
    table("Batches that hold this job's work", [
      ["Batch", (batch) => batchLink(batch.batch)],
      ["State", (batch) => state(batch.state)],
      ["Record", (batch) => (batch.record ? code(batch.record) : "none yet")],
      ["To check it", (batch) => (batch.record ? command(`proofyard verifier dispute replay ${batch.batch}`) : "once it is settled")],
    ], batches, "Nothing of it is committed on chain yet."),
  ];
}

const taskTable = (items) =>
  table("Tasks", [
    ["Task", (task) => count(task.task), "number"],
    ["What", (task) => task.label],
    ["State", (task) => state(task.state)],
    ["Node", (task) => (task.node ? short(task.node) : "–")],
    ["Attempt", (task) => count(task.attempt), "number"],
    ["Segments", (task) => count(task.segments), "number"],
    ["Reward", (task) => credits(task.reward), "number"],
  ], items, "Its tasks are not known yet.");

const auditTable = (items) =>
  table("Audited segments", [
    ["Segment", (audit) => `job ${audit.job} task ${audit.task} segment ${audit.segment}`],
    ["Worker", (audit) => short(audit.worker)],
    ["Verdict", (audit) => [state(audit.verdict), audit.fault ? el("small", {}, `${audit.fault}: ${audit.reason}`) : null]],
    ["Auditors", (audit) => audit.seats.map((seat) => el("div", {}, short(seat.auditor), ` ${vote(seat, audit)}`))],
    ["Batch", (audit) => batchLink(audit.batch)],
    ["To check it", (audit) => (audit.shown.replay ? command(audit.shown.replay) : "once it is settled")],
  ], items, "Nothing has been audited yet.");

function vote(seat, audit) {
  if (seat.copied) return "copied an answer";
  if (seat.state !== "opened") return { away: "gave no answer", working: "works on it", sealed: "has sealed its answer" }[seat.state] ?? seat.state;
  if (audit.verdict === "pending") return "has answered";
  if (seat.reason) return `cannot execute it: ${seat.reason}`;
  return seat.answer === audit.claimed ? "agrees" : "found another state";
}

const faultTable = (items) =>
  table("Faults", [
    ["Where", (fault) => [el("a", { href: `#job/${fault.job}` }, `job ${fault.job}`), ` task ${fault.task}, ${fault.segment === null ? "its result" : `segment ${fault.segment}`}`]],
    ["Node", (fault) => short(fault.node)],
    ["Fault", (fault) => [badge(fault.kind, "bad"), el("small", {}, fault.reason)]],
    ["Batch", (fault) => (fault.batch === null ? "–" : batchLink(fault.batch))],
    ["To check it", (fault) => (fault.shown.replay ? command(fault.shown.replay) : "once it is settled")],
  ], items, "No faults.");

async function oneBatch(id) {
  const [batch, audits] = await Promise.all([ask(`/v1/batches/${id}`), ask(`/v1/batches/${id}/audits?limit=${AUDITS}`)]);
  return [
    el("div", { class: "title" }, el("h1", {}, `Batch ${id}`), state(batch.state), batch.reason ? el("p", { class: "bad" }, batch.reason) : null),
    section("What it rests on",
      facts(["Jobs", batch.lines.slice(0, 50).map((line, place) => [place ? ", " : "", jobLink(line.job), ` (${count(line.units)} units)`])],
        ["Root", code(batch.root)], ["Seed", batch.seed ? code(batch.seed) : "not drawn yet"], ["Record", batch.record ? code(batch.record) : "none yet"],
        ["Committed in block", batch.commit_block ? count(batch.commit_block) : ""], ["Settled in block", batch.settled_block ? count(batch.settled_block) : ""],
        ["Final", batch.claimable_at ? moment(batch.claimable_at) : ""]),
      batch.record ? [command(`proofyard verifier dispute replay ${id}`), el("p", { class: "quiet" }, "reads the record, holds it against the chain, and executes the audited segments again.")] : null),
    section("Audits and verdicts", auditTable(audits.items), audits.next ? el("p", { class: "quiet" }, `The first ${audits.items.length}; `, el("a", { href: `/v1/batches/${id}/audits` }, "all of them")) : null),
  ];
}

async function audits() {
  const batches = (await ask(`/v1/batches?limit=${SHOWN}`)).items.filter((batch) => batch.batch !== null).slice(0, 5);
  const found = await Promise.all(batches.map((batch) => ask(`/v1/batches/${batch.batch}/audits?limit=20`)));
  return [
    el("div", { class: "title" }, el("h1", {}, "Audits"), el("p", { class: "quiet" }, "Of the newest batches. A worker cannot know which segments are drawn, an auditor not what others answer.")),
    section("Verdicts", auditTable(found.flatMap((page) => page.items))),
    section("Batches", batchTable(batches)),
  ];
}

async function nodes() {
  const found = await ask("/v1/nodes?limit=200");
  const speed = found.items.reduce((sum, node) => sum + (node.tokens_per_s ?? 0), 0);
  return [
    el("div", { class: "title" }, el("h1", {}, "Nodes"), el("p", { class: "quiet" }, "Those that are connected to this verifier, by the address of their key. Where they are is not told.")),
    tiles(["Connected", found.next ? `${found.items.length}+` : count(found.items.length)], ["At work", count(found.items.filter((node) => node.holds.length).length)],
      ["Throughput", `${count(Math.round(speed))}`, "tokens/s, as they say"]),
    section("Connected nodes", table("Connected nodes", [
      ["Node", (node) => short(node.address)],
      ["Owner", (node) => short(node.owner)],
      ["Workloads", (node) => node.workloads.join(", ")],
      ["Tokens/s", (node) => (node.tokens_per_s === null ? "–" : count(Math.round(node.tokens_per_s))), "number"],
      ["Holds", (node) => (node.holds.length ? node.holds.slice(0, 6).map((held, place) => [place ? ", " : "", el("a", { href: `#job/${held.split(":")[0]}` }, held)]) : "nothing")],
      ["Stake", (node) => credits(node.stake, 2), "number"],
      ["In flight", (node) => credits(node.in_flight, 2), "number"],
      ["Valid in a row", (node) => count(node.consecutive_valid), "number"],
      ["Faults", (node) => el("span", { class: node.faults ? "bad" : null }, count(node.faults)), "number"],
      ["Software", (node) => node.software],
    ], found.items, "No nodes are connected.")),
  ];
}

async function allDisputes() {
  const [status, found, faults] = await Promise.all([ask("/v1/status"), ask("/v1/disputes"), ask("/v1/faults?limit=50")]);
  now = status.chain_time;
  return [
    el("div", { class: "title" }, el("h1", {}, "Disputes"), el("p", { class: "quiet" }, "Challenges, as the Court on chain has them.")),
    section("Challenges", table("Challenges, the newest first", [
      ["Challenge", (each) => each.id],
      ["About", (each) => [`${each.kind}: `, jobLink(each.job), ` task ${each.task} segment ${each.segment}, batch `, batchLink(each.batch)]],
      ["Phase", (each) => state(each.phase)],
      ["Deadline", (each) => deadline(each)],
      ["Accused", (each) => `operator ${each.accused}`],
      ["Challenger", (each) => short(each.challenger)],
      ["Bond", (each) => credits(each.bond), "number"],
      ["Votes", (each) => `${each.votes_wrong} wrong, ${each.votes_right} right`],
      ["More", (each) => command(`proofyard verifier dispute show ${each.id}`)],
    ], found.items, "Nothing is disputed.")),
    section("Faults that are held against nodes", faultTable(faults.items)),
  ];
}

function deadline(each) {
  if (["upheld", "rejected", "dismissed"].includes(each.phase)) return "decided";
  return [until(each.until, now), el("small", {}, moment(each.until))];
}

// Which is shown

const VIEWS = { "": overview, nodes, audits, disputes: allDisputes, job: oneJob, batch: oneBatch };

function where() {
  const [name, id] = location.hash.slice(1).split("/");
  const known = Object.hasOwn(VIEWS, name) && (id === undefined || /^[0-9]{1,18}$/.test(id)) && ["job", "batch"].includes(name) === (id !== undefined);
  return known ? { name, id, view: VIEWS[name] } : { name: "", id: undefined, view: overview };
}

let asked = 0, live = false;

async function look() {
  const turn = ++asked, { name, id, view } = where();
  let parts;
  try {
    parts = await view(id);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status === 0) return away(error);
    if (error.status === 503 && main.childElementCount) return setState("away", `Not now: ${error.message}`);
    parts = [el("div", { class: "title" }, el("h1", {}, id ? `No ${name} ${id} here` : "Nothing to show")), el("p", { class: "notice bad", role: "alert" }, error.message), el("p", {}, el("a", { href: "#" }, "Back to the overview"))];
  }
  if (turn !== asked) return;
  show(main, parts);
  if (live) setState("live", "Live");
  document.querySelectorAll("nav a").forEach((link) => (link.dataset.view === name ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current")));
  document.title = `${main.querySelector("h1")?.textContent ?? "Proofyard"} – Proofyard verifier`;
}

const soon = paced(look, EVERY_MS);
let since = null;

function away(error) {
  live = false;
  since ??= Date.now() / 1000;
  const why = error instanceof Refused ? error.message : "it does not answer";
  setState("away", `The verifier is away since ${clock(since)}: ${why}`);
}

function heard(line, kind) {
  if (kind === "message" && log && line.job === log.job) log.take(line);
  soon(); // It asks for what was missed between.
}

let stop = () => {};

function listen() {
  stop();
  stop = follow("/v1/events", {
    onOpen: () => {
      live = true;
      since = null;
      setState("live", "Live");
      soon();
    },
    onEvent: heard,
    onAway: away,
  });
}

async function why(button) {
  button.disabled = true;
  const place = button.parentElement;
  try {
    const found = await ask(`/v1/jobs/${button.dataset.job}/explain`);
    const lines = found.because.map((each) => el("li", {}, badge(each.about), ` ${each.task === null ? "" : `task ${each.task}: `}${each.text}`, each.shown.replay ? command(each.shown.replay) : null));
    place.replaceChildren(button, el("ul", { class: "plain" }, lines));
  } catch (error) {
    place.replaceChildren(button, el("p", { class: "bad", role: "alert" }, error.message));
  }
  button.disabled = false;
  button.focus();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-act]");
  if (button?.dataset.act === "why") why(button);
  if (button?.dataset.act === "more") {
    pages += 1;
    look();
  }
});
document.getElementById("find").addEventListener("submit", (event) => {
  event.preventDefault();
  location.hash = `job/${document.getElementById("number").value}`;
});
addEventListener("hashchange", () => {
  pages = 1;
  if (where().id !== log?.job) log = null;
  look().then(() => main.focus({ preventScroll: true }));
  scrollTo(0, 0);
});
addEventListener("resize", soon);
document.addEventListener("visibilitychange", () => (document.hidden ? stop() : listen()));
setInterval(() => document.hidden || soon(), IDLE_MS);
listen();
look();
