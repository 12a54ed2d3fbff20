// Live jobs, and the buttons of a job. Everything it shows comes from the JSON interface.
"use strict";

const API = "/api/v1";
const FINAL = new Set(["succeeded", "failed", "cancelled", "dead"]);
const POLL_MS = 5000;
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

// --- asking ---------------------------------------------------------------------------------

class Refused extends Error {
  constructor(problem) {
    super(problem.detail || problem.title || "The request failed.");
    this.errors = problem.errors || [];
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Refused({ detail: "The server cannot be reached." });
  }
  const body = await response.json().catch(() => ({ detail: `The server answered ${response.status}.` }));
  if (!response.ok) throw new Refused(body);
  return body;
}

const post = (path, body) =>
  ask(path, {
    method: "POST",
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });

let toastTimer;
function toast(text) {
  const box = $("#toast");
  box.textContent = text;
  box.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (box.hidden = true), 7000);
}

// --- live updates ---------------------------------------------------------------------------

// A hidden tab holds no connection (a browser has six for one server) and catches up when it is shown.
// While it is open the browser itself connects again, and names the last update it saw: nothing is missed.
class Watcher {
  constructor(filter, onUpdate, onStale) {
    Object.assign(this, { query: new URLSearchParams(filter), onUpdate, onStale, source: null, timer: null });
    this.onVisibility = () => (document.hidden ? this.pause() : this.resume());
    document.addEventListener("visibilitychange", this.onVisibility);
    if (!document.hidden) this.open();
  }

  open() {
    this.source = new EventSource(`/live?${this.query}`);
    this.source.onopen = () => {
      setLive("live");
      this.onStale();
    };
    this.source.onerror = () => setLive("reconnecting");
    this.source.addEventListener("update", (event) => this.onUpdate(JSON.parse(event.data)));
    this.source.addEventListener("gap", () => this.onStale());
    this.source.addEventListener("away", () => setLive("live updates are away"));
    this.source.addEventListener("back", () => {
      setLive("live");
      this.onStale();
    });
    this.timer = setInterval(() => {
      // Best effort only: where Redis or the connection is away, the page still finds out.
      if (this.source.readyState === EventSource.CLOSED) this.reopen();
      this.onStale();
    }, POLL_MS);
  }

  pause() {
    clearInterval(this.timer);
    this.source?.close();
    this.source = null;
  }

  resume() {
    if (!this.source) this.open();
  }

  reopen() {
    this.pause();
    this.open();
  }

  close() {
    document.removeEventListener("visibilitychange", this.onVisibility);
    this.pause();
    $("#live").hidden = true;
  }
}

function setLive(text) {
  const mark = $("#live");
  mark.hidden = false;
  mark.classList.toggle("off", text !== "live");
  mark.lastElementChild.textContent = text;
}

function showProgress(root, update) {
  const bar = $("progress", root);
  const status = $("[data-status]", root);
  if (!bar || !update.progress) return;
  const { current, total } = update.progress;
  if (total && current) {
    bar.max = total;
    bar.value = current;
  } else bar.removeAttribute("value"); // busy, and nobody knows yet how far
  status.textContent = update.progress.status;
}

function soon(action, ms) {
  let timer = null;
  return () => {
    timer ??= setTimeout(() => {
      timer = null;
      action();
    }, ms);
  };
}

function watchList(list) {
  const refresh = soon(() => htmx.trigger(list, "stale"), 250);
  const feed = $("#feed");
  if (feed) showFeed(feed);
  new Watcher(
    feed ? [] : [["stream", "dashboard"]],
    (update) => {
      if (update?.type !== "job") {
        if (feed && update?.event) addToFeed(feed, update);
        return;
      }
      const row = $(`[data-job="${CSS.escape(update.job_id)}"]`, list);
      if (row && row.dataset.state === update.state) showProgress(row, update);
      else refresh();
    },
    refresh,
  );
}

// --- what else happens: notifications, activity of people, health -----------------------------

const FEED_LENGTH = 6;

function showFeed(feed) {
  for (const update of JSON.parse(feed.dataset.latest)) addToFeed(feed, update);
}

function addToFeed(feed, update) {
  const data = update.data ?? update;
  const item = document.createElement("li");
  const what = document.createElement("strong");
  what.textContent = update.event.replace(/^audit\./, "").replace(/[._]/g, " ");
  const at = document.createElement("time");
  at.dateTime = new Date(update.at * 1000).toISOString();
  const detail = document.createElement(data.job_id ? "a" : "span");
  if (data.job_id) detail.href = `/jobs/${encodeURIComponent(data.job_id)}`;
  detail.textContent = [data.actor, data.channel, data.title, data.dataset, data.reason, data.error?.message, data.status]
    .filter((text) => typeof text === "string" && text)
    .slice(0, 2)
    .join(" · ") || (data.job_id ? `job ${data.job_id.slice(-8)}` : "");
  item.append(what, " ", detail, " ", at);
  $("ul", feed).prepend(item);
  for (const old of $$("li", feed).slice(FEED_LENGTH)) old.remove();
  feed.hidden = false;
  showTimes(feed);
}

function watchJob(panel) {
  const job = () => $("#job", panel);
  if (FINAL.has(job().dataset.state)) return;
  const refresh = soon(() => htmx.trigger(panel, "stale"), 60);
  // The panel is made anew only when there is news: what a person opened in it stays open.
  const show = (update) => {
    const same = update.state === job().dataset.state && String(update.attempt) === job().dataset.attempt;
    if (same) showProgress(job(), update);
    else refresh();
  };
  const look = soon(() => ask(`${API}/jobs/${encodeURIComponent(job().dataset.job)}`).then(show, () => setLive("reconnecting")), 60);
  const watcher = new Watcher([["job_id", job().dataset.job]], (update) => update?.type === "job" && show(update), look);
  panel.addEventListener("htmx:afterSettle", () => {
    if (FINAL.has(job().dataset.state)) watcher.close();
  });
}

// Resolves with the job once it has ended.
function ended(jobId) {
  return new Promise((resolve, reject) => {
    const look = soon(async () => {
      try {
        const job = await ask(`${API}/jobs/${encodeURIComponent(jobId)}`);
        if (!FINAL.has(job.state)) return;
        watcher.close();
        resolve(job);
      } catch (error) {
        watcher.close();
        reject(error);
      }
    }, 60);
    const watcher = new Watcher([["job_id", jobId]], look, look);
  });
}

// --- a job's buttons ------------------------------------------------------------------------

async function act(button) {
  button.disabled = true;
  try {
    const job = await post(button.dataset.post);
    if ("follow" in button.dataset) location.assign(job.links.page);
    else if ("reload" in button.dataset) location.reload();
    else htmx.trigger($("#panel"), "stale");
  } catch (error) {
    toast(error.message);
    button.disabled = false;
  }
}

async function openReport(button) {
  button.disabled = true;
  button.textContent = "Making the report…";
  try {
    let reportId = button.dataset.reportJob;
    if (!reportId) {
      const of = button.dataset.report;
      const body = { kind: "generate_report", request: { job: of }, tags: [`report-of:${of}`] };
      reportId = (await post(`${API}/jobs`, body)).id;
    }
    const job = await ended(reportId);
    if (job.state !== "succeeded") throw new Refused({ detail: job.error?.message || `The report ${job.state}.` });
    location.assign(`${job.links.self}/files/report.html`);
  } catch (error) {
    toast(error.message);
  }
  button.disabled = false;
  button.textContent = "Open the report";
}

async function retryEdited(form) {
  clearErrors(form);
  try {
    const box = $("textarea", form);
    const request = JSON.parse(box.value);
    // The edits are laid over the old request, so what was taken out must be said.
    for (const name of Object.keys(JSON.parse(box.defaultValue))) request[name] ??= null;
    const job = await post(form.dataset.editRetry, { request });
    location.assign(job.links.page);
  } catch (error) {
    const text = error instanceof SyntaxError ? `This is not JSON: ${error.message}` : error.message;
    showErrors(form, [{ field: "", message: text }]);
  }
}

// --- times ----------------------------------------------------------------------------------

function ago(at) {
  const s = (Date.now() - at) / 1000;
  for (const [unit_s, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (s >= unit_s) return `${Math.floor(s / unit_s)} ${unit} ago`;
  }
  return "just now";
}

function showTimes(root = document) {
  for (const element of $$("time[datetime]", root)) {
    const at = new Date(element.dateTime);
    element.title = at.toLocaleString();
    element.textContent = "exact" in element.dataset ? at.toLocaleString() : ago(at);
  }
}

// --- start ----------------------------------------------------------------------------------

document.addEventListener("DOMContentLoaded", () => {
  showTimes();
  setInterval(showTimes, 20000);
  showCharts();
  const form = $("#detect");
  if (form) setUpForm(form);
  const live = $("[data-live]");
  if (live?.dataset.live === "list") watchList(live);
  if (live?.dataset.live === "job") watchJob(live);
  document.addEventListener("htmx:afterSettle", (event) => {
    showTimes(event.target);
    showCharts(event.target);
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.post) act(button);
    else if (button?.dataset.report || button?.dataset.reportJob) openReport(button);
  });
  document.addEventListener("submit", (event) => {
    if (event.target.dataset.editRetry) {
      event.preventDefault();
      retryEdited(event.target);
    }
  });
  document.addEventListener("change", (event) => {
    if ("submit" in event.target.dataset) event.target.form.requestSubmit();
  });
});
