"use strict";
const at = (id) => document.getElementById(id);
const form = at("ask");

const tell = (words) => { at("status").textContent = words; };
const fail = (words) => { at("problem").textContent = words; at("problem").hidden = false; tell(""); };

const forget = () => {
  at("result").hidden = true;
  at("problem").hidden = true;
  for (const id of ["image", "heat"]) at(id).removeAttribute("src");
  at("heat").hidden = true;
  form.reset();
  tell("");
};

const percent = (share) => `${(100 * share).toFixed(1)} %`;

const row = (one, first) => {
  const line = document.createElement("tr"), name = document.createElement("th");
  if (first) line.className = "first";
  name.scope = "row";
  name.textContent = one.name;
  line.append(name);
  const share = document.createElement("td");
  share.textContent = percent(one.probability);
  line.append(share);
  const cell = document.createElement("td"), bar = document.createElement("progress");
  bar.max = 1;
  bar.value = one.probability;
  bar.setAttribute("aria-hidden", "true");
  cell.append(bar);
  line.append(cell);
  return line;
};

const list = (id, sentences) => {
  at(id).hidden = !sentences.length;
  at(id).querySelector("ul").replaceChildren(...sentences.map((words) => {
    const item = document.createElement("li");
    item.textContent = words;
    return item;
  }));
};

const setOpacity = () => {
  const share = at("opacity").value;
  at("heat").style.opacity = share / 100;
  at("opacity-said").textContent = `${share} %`;
};

const show = (found, name) => {
  const verdict = at("verdict");
  verdict.textContent = found.refer ? "Refer to a radiologist" : `${found.label}: ${found.words}`;
  verdict.classList.toggle("refer", found.refer);
  list("reasons", found.reasons);
  list("notes", found.notes);
  at("leaning").hidden = !found.refer;
  at("leaning").textContent = found.refer ? `Without that the model would say ${found.leaning}: ${found.words}.` : "";
  at("chances").replaceChildren(...found.probabilities.map((one, index) => row(one, index === 0)));
  at("details").textContent = `${name} · ${found.kind} · answered in ${found.seconds.toFixed(2)} s`;
  at("image").src = `data:image/png;base64,${found.image}`;
  const heat = found.heatmap !== null;
  at("heat").hidden = !heat;
  at("heat-control").hidden = !heat;
  if (heat) at("heat").src = `data:image/png;base64,${found.heatmap}`;
  at("heat-words").textContent = heat
    ? `The image as the model sees it. Warm colours: ${found.heatmap_words}. It shows where, not why, and can mislead.`
    : "The image as the model sees it. This model gives no heatmap.";
  setOpacity();
  at("result").hidden = false;
  tell("");
  verdict.focus();
};

let busy = false;
const ask = async (file) => {
  if (busy || !file) return;
  forget();
  const most = Number(form.dataset.most);
  if (file.size > most) { fail(`This file is too large: at most ${(most / 1e6).toFixed(1)} MB are read, it has ${(file.size / 1e6).toFixed(2)} MB.`); return; }
  busy = true;
  form.classList.add("busy");
  tell("The model looks at the image …");
  try {
    const answer = await fetch("/api/diagnose", {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream", "X-Form-Token": document.body.dataset.formToken, Accept: "application/json" },
      body: file,
    });
    const found = await answer.json().catch(() => null);
    if (answer.ok && found) show(found, file.name);
    else if (answer.status === 401) fail("Your login has ended. Log in again with the address that was printed.");
    else fail(found?.detail ? `${found.detail[0].toUpperCase()}${found.detail.slice(1)}.` : "That did not work.");
  } catch {
    fail("The page does not answer. Is it still running?");
  } finally {
    busy = false;
    form.classList.remove("busy");
    form.reset();
  }
};

if (form) {
  const drop = at("drop");
  at("file").addEventListener("change", (event) => ask(event.target.files[0]));
  // Dropped anywhere on the page: a browser would otherwise leave the page and open the file.
  for (const kind of ["dragover", "drop", "dragleave"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") ask(event.dataTransfer.files[0]);
    });
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  at("opacity").addEventListener("input", setOpacity);
  at("print").addEventListener("click", () => window.print());
  at("forget").addEventListener("click", () => { forget(); at("file").focus(); });
}
