// The detection form: what is chosen, what is wrong with it, and the upload. Uses what app.js defines.
"use strict";

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
