// Live jobs, the detection form, and the buttons of a job. Everything it shows comes from the JSON interface.
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
class Watcher {
  constructor(jobId, onUpdate, onStale) {
    Object.assign(this, { jobId, onUpdate, onStale, source: null, timer: null, lastId: "" });
    this.onVisibility = () => (document.hidden ? this.pause() : this.resume());
    document.addEventListener("visibilitychange", this.onVisibility);
    if (!document.hidden) this.open();
  }

  open() {
    const query = this.jobId ? `?job_id=${encodeURIComponent(this.jobId)}` : "";
    this.source = new EventSource(`${API}/events${query}`);
    this.source.onopen = () => {
      setLive(true);
      this.onStale();
    };
    this.source.onerror = () => setLive(false);
    this.source.addEventListener("update", (event) => this.onUpdate(JSON.parse(event.data)));
    this.source.addEventListener("gap", () => this.onStale());
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

function setLive(on) {
  const mark = $("#live");
  mark.hidden = false;
  mark.classList.toggle("off", !on);
  mark.lastElementChild.textContent = on ? "live" : "reconnecting";
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
  new Watcher(
    "",
    (update) => {
      if (!update || !update.job_id) return;
      const row = $(`[data-job="${CSS.escape(update.job_id)}"]`, list);
      if (row && row.dataset.state === update.state) showProgress(row, update);
      else refresh();
    },
    refresh,
  );
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
  const look = soon(() => ask(`${API}/jobs/${encodeURIComponent(job().dataset.job)}`).then(show, () => setLive(false)), 60);
  const watcher = new Watcher(job().dataset.job, show, look);
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
    const watcher = new Watcher(jobId, look, look);
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

// --- the detection form ---------------------------------------------------------------------

function clearErrors(form) {
  $$("[data-error-for]", form).forEach((box) => (box.hidden = true));
  $$("[aria-invalid]", form).forEach((input) => input.removeAttribute("aria-invalid"));
}

// Each message goes beside the part of the form that its field belongs to; else to the end of the form.
function showErrors(form, errors) {
  const texts = new Map();
  for (const { field, message } of errors) {
    const path = field.replace(/^request\./, "");
    const boxes = $$("[data-error-for]", form).map((box) => box.dataset.errorFor);
    const option = $(`[data-option="${CSS.escape(path)}"]`, form);
    if (option) {
      option.setAttribute("aria-invalid", "true");
      option.closest("details").open = true;
    }
    const place = boxes.find((name) => name && (path === name || path.startsWith(`${name}.`))) ?? "";
    const name = path.split(".").pop();
    const input = $(`.params:not([hidden]) [data-param="${CSS.escape(name)}"]`, form);
    if (input) {
      input.setAttribute("aria-invalid", "true");
      input.closest("details").open = true;
    }
    const shown = place === path || !path ? message : `${path}: ${message}`;
    texts.set(place, [...(texts.get(place) ?? []), shown]);
  }
  for (const [place, messages] of texts) {
    const box = $(`[data-error-for="${place}"]`, form);
    box.textContent = messages.join(" ");
    box.hidden = false;
  }
  $("[data-error-for]:not([hidden])", form)?.scrollIntoView({ block: "center" });
}

function chosenParams(form) {
  const params = {};
  for (const input of $$(".params:not([hidden]) [data-param]", form)) {
    const name = input.dataset.param;
    if (input.dataset.control === "switch") params[name] = input.checked;
    else if (input.dataset.control === "choice") params[name] = input.value;
    else if (input.dataset.control === "several") params[name] = $$("input:checked", input).map((box) => box.value);
    else if (input.validity.badInput) throw new Refused({ errors: [{ field: `detector.params.${name}`, message: "must be a number" }] });
    else if (input.value !== "") params[name] = Number(input.value);
    else if (input.dataset.default !== "") throw new Refused({ errors: [{ field: `detector.params.${name}`, message: `needs a number; the default is ${input.dataset.default}` }] });
  }
  return params;
}

function chosenOptions(form) {
  const filled = $$("[data-option]", form).filter((input) => input.value !== "");
  return Object.fromEntries(
    filled.map((input) => [input.dataset.option, input.type === "number" ? Number(input.value) : input.value]),
  );
}

function upload(file, bar) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `${API}/datasets`);
    request.responseType = "json";
    bar.hidden = false;
    request.upload.onprogress = (event) => (bar.value = event.loaded / event.total);
    request.onerror = () => reject(new Refused({ detail: "The upload was cut off." }));
    request.onload = () => {
      const body = request.response ?? { detail: `The server answered ${request.status}.` };
      if (request.status === 201) resolve(body.source);
      else reject(new Refused({ ...body, errors: [{ field: "dataset", message: body.detail }] }));
    };
    request.onloadend = () => (bar.hidden = true);
    const form = new FormData();
    form.append("file", file);
    request.send(form);
  });
}

function setUpForm(form) {
  const file = $("#file"), source = $("#source"), drop = $("#drop"), detector = $("#detector");
  const method = $("#method"), threshold = $("#threshold"), button = $("#submit");
  const limit = Number(form.dataset.maxBytes);
  const uploaded = new WeakMap(); // a file is sent once, even when the request is corrected and sent again

  const showFile = () => {
    const chosen = file.files[0];
    $("#file-name").textContent = chosen ? chosen.name : "Choose a file or drop it here";
    drop.classList.toggle("chosen", Boolean(chosen));
    if (chosen && source) source.value = "";
    clearErrors(form);
    if (chosen && chosen.size > limit) {
      showErrors(form, [{ field: "dataset", message: `The file is larger than the limit of ${Math.floor(limit / 2 ** 20)} MiB.` }]);
    }
  };
  const showParams = () => $$(".params", form).forEach((box) => (box.hidden = box.dataset.detector !== detector.value));
  const showMethod = () => {
    const { value, min, max, step, hint } = method.selectedOptions[0].dataset;
    Object.assign(threshold, { value, min, max, step });
    $("#threshold-hint").textContent = hint;
  };

  file.addEventListener("change", showFile);
  source?.addEventListener("change", () => {
    if (source.value) file.value = "";
    showFile();
  });
  detector.addEventListener("change", showParams);
  method.addEventListener("change", showMethod);
  for (const type of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(type, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", type === "dragover");
      if (type === "drop" && event.dataTransfer.files.length) {
        file.files = event.dataTransfer.files;
        showFile();
      }
    });
  }
  showParams();
  if (file.files.length) showFile();

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    clearErrors(form);
    $$("button", form).forEach((one) => (one.disabled = true));
    try {
      const chosen = file.files[0];
      if (!chosen && !source?.value) throw new Refused({ errors: [{ field: "dataset", message: "Choose a file first." }] });
      if (chosen && chosen.size > limit) throw new Refused({ errors: [{ field: "dataset", message: `The file is larger than the limit of ${Math.floor(limit / 2 ** 20)} MiB.` }] });
      if (threshold.value === "") throw new Refused({ errors: [{ field: "threshold", message: "needs a number" }] });
      const detection = { threshold: { method: method.value, value: Number(threshold.value) }, ...chosenOptions(form) };
      if (detector.value) detection.detector = { name: detector.value, params: chosenParams(form) };
      if (chosen && !uploaded.has(chosen)) {
        button.textContent = "Uploading…";
        uploaded.set(chosen, await upload(chosen, $("#upload")));
      }
      const kind = (event.submitter ?? button).dataset.kind;
      const request = { dataset: chosen ? uploaded.get(chosen) : source.value };
      if (kind === "detect_anomalies") Object.assign(request, detection);
      const job = await post(`${API}/jobs`, { kind, request });
      location.assign(job.links.page);
    } catch (error) {
      showErrors(form, error.errors?.length ? error.errors : [{ field: "", message: error.message }]);
      $$("button", form).forEach((one) => (one.disabled = false));
      button.textContent = "Detect anomalies";
    }
  });
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
