"use strict";
// Texts of users are only ever set as text, so that nothing in a document becomes part of this page.

const TEXTS = {
  en: {
    theme: "Dark or light", key: "API key", use: "Use it", choose: "Choose a document",
    drop: "or drop an image or a PDF here", pages: "Pages", layout: "Read", auto: "as the model prefers",
    lines: "line by line", page: "the page as a whole", model: "block by block", cancel: "Cancel", copy: "Copy the text", download: "Download:",
    text: "Text", pdf: "Searchable PDF", delete: "Delete from the server", confidence: "Confidence:", high: "high",
    fair: "fair", low: "low", sending: "Sending {name} …", waiting: "{name} waits for its turn.",
    reading: "Reading {name}, pages: {done} of {all}", done: "{name} was read, pages: {done}.",
    cancelled: "{name} was cancelled, pages read: {done}.", failed: "{name} could not be read: {error}",
    gone: "It was deleted from the server.", copied: "The text was copied.", number: "Page {n}",
    refused: "The server says: {error}", nokey: "This server wants a key.", nothing: "No text was found.",
    dropone: "One document at a time: the first is read.",
  },
  zh: {
    theme: "深色或浅色", key: "API 密钥", use: "使用", choose: "选择文件", drop: "或将图片、PDF 拖到这里", pages: "页码",
    layout: "识别方式", auto: "按模型默认", lines: "逐行", page: "整页", model: "逐块", cancel: "取消", copy: "复制文本", download: "下载：",
    text: "文本", pdf: "可搜索 PDF", delete: "从服务器删除", confidence: "置信度：", high: "高", fair: "中", low: "低",
    sending: "正在上传 {name} …", waiting: "{name} 正在排队。", reading: "正在识别 {name}：第 {done} / {all} 页",
    done: "{name}：已识别 {done} 页。", cancelled: "{name} 已取消，已识别 {done} 页。", failed: "{name} 无法识别：{error}",
    gone: "已从服务器删除。", copied: "文本已复制。", number: "第 {n} 页", refused: "服务器返回：{error}",
    nokey: "此服务器需要密钥。", nothing: "没有找到文字。", dropone: "一次只识别一个文件：将识别第一个。",
  },
};
const $ = (id) => document.getElementById(id);
const state = { language: "en", id: null, name: "", texts: [], says: null, abort: null, run: 0 };

function text(name, values = {}) {
  return TEXTS[state.language][name].replace(/\{(\w+)\}/g, (_, key) => values[key] ?? "");
}

function say(name, values = {}) {
  state.says = [name, values];
  $("says").textContent = text(name, values);
  $("status").hidden = false;
}

function speak(language) {
  state.language = language;
  localStorage.setItem("language", language);
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  for (const element of document.querySelectorAll("[data-number]")) {
    element.textContent = text("number", { n: element.dataset.number });
  }
  $("language").textContent = language === "zh" ? "English" : "中文";
  $("language").lang = language === "zh" ? "en" : "zh";
  if (state.says) $("says").textContent = text(...state.says);
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  localStorage.setItem("theme", name);
}

async function call(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...(options.headers || {}), ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  if (answer.status === 401) {
    $("key-form").hidden = false;
    $("key").focus();
    throw new Error(text("nokey"));
  }
  let message = `${answer.status} ${answer.statusText}`;
  try {
    message = (await answer.json()).error.message;
  } catch { /* no JSON: a proxy spoke */ }
  throw new Error(message);
}

async function* events(path, signal) {
  const reader = (await call(path, { signal })).body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    for (let end; (end = held.indexOf("\n\n")) >= 0; held = held.slice(end + 2)) {
      const event = {};
      for (const line of held.slice(0, end).split("\n")) {
        const cut = line.indexOf(": ");
        if (cut > 0) event[line.slice(0, cut)] = line.slice(cut + 2);
      }
      if (event.data) yield { name: event.event, data: JSON.parse(event.data) };
    }
  }
}

async function read(file) {
  const run = ++state.run;
  state.abort?.abort();
  if (state.id) call(`v1/documents/${state.id}`, { method: "DELETE" }).catch(() => {});
  const abort = new AbortController();
  Object.assign(state, { id: null, name: file.name || "document", texts: [], abort });
  for (const image of document.querySelectorAll("figure img")) URL.revokeObjectURL(image.src);
  $("result").replaceChildren();
  $("actions").hidden = $("legend").hidden = true;
  $("cancel").hidden = $("progress").hidden = false;
  $("progress").removeAttribute("value");
  say("sending", { name: state.name });
  const form = new FormData();
  form.append("file", file);
  form.append("pages", $("pages").value.trim());
  form.append("layout", $("layout").value);
  try {
    const sent = await (await call("v1/documents", { method: "POST", body: form, signal: abort.signal })).json();
    if (run !== state.run) return;
    state.id = sent.id;
    for await (const { name, data } of events(`v1/documents/${sent.id}/events`, abort.signal)) {
      if (run !== state.run) return;
      if (name === "page") show(sent.id, data);
      else progress(data, name === "end");
      if (name === "page") progress({ status: "reading", pages: state.all, pages_read: state.texts.length }, false);
      if (name === "document") state.all = data.pages;
    }
  } catch (error) {
    if (run !== state.run || error.name === "AbortError") return;
    say("refused", { error: error.message });
    $("cancel").hidden = $("progress").hidden = true;
  }
}

function progress(data, ended) {
  const values = { name: state.name, done: data.pages_read, all: data.pages ?? "…", error: data.error ?? "" };
  if (data.pages) {
    $("progress").max = data.pages;
    $("progress").value = data.pages_read;
  }
  say(data.status, values);
  if (ended) {
    $("cancel").hidden = $("progress").hidden = true;
    $("actions").hidden = !data.pages_read;
  }
}

function grade(confidence) {
  if (confidence === null || confidence === undefined) return "";
  return confidence >= 0.9 ? "high" : confidence >= 0.6 ? "fair" : "low";
}

function show(id, page) {
  state.texts.push(page.text);
  const paper = document.createElement("section");
  paper.className = "paper";
  const head = document.createElement("h2");
  head.dataset.number = page.number;
  head.textContent = text("number", { n: page.number });
  paper.append(head);
  for (const said of [page.error, ...page.warnings]) {
    if (!said) continue;
    const note = document.createElement("p");
    note.className = "doubt error";
    note.textContent = said;
    paper.append(note);
  }
  if (!page.error) paper.append(drawn(id, page), words(page));
  $("result").append(paper);
  link(paper);
}

function drawn(id, page) {
  const figure = document.createElement("figure");
  const image = document.createElement("img");
  image.alt = "";
  image.width = page.width;
  image.height = page.height;
  call(`v1/documents/${id}/pages/${page.number}/image`)
    .then((answer) => answer.blob())
    .then((blob) => { image.src = URL.createObjectURL(blob); })
    .catch(() => {});
  const space = "http://www.w3.org/2000/svg";
  const boxes = document.createElementNS(space, "svg");
  boxes.setAttribute("viewBox", `0 0 ${page.width} ${page.height}`);
  boxes.setAttribute("preserveAspectRatio", "none");
  boxes.setAttribute("aria-hidden", "true");
  let number = 0;
  for (const block of page.blocks) {
    for (const line of block.lines) {
      const [left, top, right, bottom] = line.box;
      const corners = line.polygon ?? [[left, top], [right, top], [right, bottom], [left, bottom]];
      const shape = document.createElementNS(space, "polygon");
      shape.setAttribute("points", corners.map((corner) => corner.join(",")).join(" "));
      shape.setAttribute("class", grade(line.confidence));
      shape.dataset.line = number++;
      boxes.append(shape);
    }
  }
  figure.append(image, boxes);
  return figure;
}

function words(page) {
  const column = document.createElement("div");
  column.className = "words";
  let number = 0;
  for (const block of page.blocks) {
    const paragraph = document.createElement("p");
    if (block.kind === "title") paragraph.className = "title";
    let row = 0;
    for (const line of block.lines) {
      if (line !== block.lines[0]) paragraph.append(line.row !== row ? document.createElement("br") : " \u2002");
      row = line.row;
      const span = document.createElement("span");
      span.className = `line ${grade(line.confidence)}`;
      span.textContent = line.text;
      span.tabIndex = 0;
      if (line.confidence !== null) span.title = `${Math.round(100 * line.confidence)} %`;
      if (line.confidence !== null) $("legend").hidden = false;
      span.dataset.line = number++;
      paragraph.append(span);
    }
    column.append(paragraph);
  }
  if (!number) {
    const none = document.createElement("p");
    none.className = "quiet";
    none.dataset.text = "nothing";
    none.textContent = text("nothing");
    column.append(none);
  }
  return column;
}

function link(paper) {
  const mark = (event, on) => {
    const line = event.target.dataset?.line;
    if (line === undefined) return;
    for (const element of paper.querySelectorAll(`[data-line="${line}"]`)) element.classList.toggle("on", on);
  };
  for (const [name, on] of [["mouseover", true], ["mouseout", false], ["focusin", true], ["focusout", false]]) {
    paper.addEventListener(name, (event) => mark(event, on));
  }
  paper.addEventListener("click", (event) => {
    const line = event.target.closest("polygon")?.dataset.line;
    if (line !== undefined) paper.querySelector(`.line[data-line="${line}"]`).focus();
  });
}

async function download(format) {
  try {
    const answer = await call(`v1/documents/${state.id}?format=${format}`);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    const suffix = { text: "txt", markdown: "md", json: "json", hocr: "hocr", pdf: "pdf" }[format];
    link.download = `${state.name.replace(/\.[^.]*$/, "")}.${suffix}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) {
    say("refused", { error: error.message });
  }
}

function take(files) {
  if (files.length) read(files[0]);
  if (files.length > 1) say("dropone");
}

function cancel() {
  if ($("cancel").hidden) return;
  if (!state.id) {
    state.abort?.abort();
    say("cancelled", { name: state.name, done: 0 });
    $("cancel").hidden = $("progress").hidden = true;
    return;
  }
  call(`v1/documents/${state.id}/cancel`, { method: "POST" }).catch((error) => say("refused", { error: error.message }));
}

function who() {
  call("v1/models").then((answer) => answer.json()).then((models) => {
    $("model").textContent = models.data[0].id;
    $("key-form").hidden = true;
  }).catch(() => {});
}

$("file").addEventListener("change", (event) => { take([...event.target.files]); event.target.value = ""; });
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") take([...event.dataTransfer.files]);
  });
}
document.addEventListener("paste", (event) => take([...event.clipboardData.files]));
document.addEventListener("keydown", (event) => { if (event.key === "Escape") cancel(); });
$("cancel").addEventListener("click", cancel);
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(state.texts.join("\n\n"));
    say("copied");
  } catch (error) {
    say("refused", { error: error.message });
  }
});
$("delete").addEventListener("click", async () => {
  try {
    await call(`v1/documents/${state.id}`, { method: "DELETE" });
    state.id = null;
    $("actions").hidden = $("legend").hidden = true;
    $("result").replaceChildren();
    say("gone");
  } catch (error) {
    say("refused", { error: error.message });
  }
});
for (const button of document.querySelectorAll("[data-format]")) {
  button.addEventListener("click", () => download(button.dataset.format));
}
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value);
  $("key").value = "";
  who();
});
$("language").addEventListener("click", () => speak(state.language === "en" ? "zh" : "en"));
$("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme
    || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  theme(now === "dark" ? "light" : "dark");
});
if (localStorage.getItem("theme")) theme(localStorage.getItem("theme"));
speak(localStorage.getItem("language") || (navigator.language.startsWith("zh") ? "zh" : "en"));
who();
