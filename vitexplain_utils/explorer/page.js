"use strict"; // The page only draws maps, as `overlay` does; the package has computed them.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const colours = bytes(data.colours); // red, green and blue of 256 levels
const panes = [...document.querySelectorAll("figure")];
const state = { pictures: [], picture: null, patch: null, pinned: null, timer: 0 };

const element = (name, properties) => Object.assign(document.createElement(name), properties);
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
const short = (value) => `${Number(value.toPrecision(2))}`;

/** A radio button that looks like a key. */
function key(name, value, ...content) {
  const box = element("label", { className: "key" }), face = element("span", {});
  face.append(...content);
  box.append(element("input", { type: "radio", name, value, checked: value === 0 }), face);
  return box;
}

async function decoded(src) {
  const image = element("img", { src });
  await image.decode();
  return image;
}

/** Load a picture: its greys, its maps and the outlines of its things. */
async function load(picture) {
  const { width, height, rows, cols } = picture, image = await decoded(picture.src);
  const context = element("canvas", { width, height }).getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, width, height).data;
  const grey = new Float32Array(width * height);
  for (let at = 0, i = 0; at < grey.length; at++, i += 4) { // Pillow's grey, made lighter
    const level = 19595 * pixels[i] + 38470 * pixels[i + 1] + 7471 * pixels[i + 2] + 32768;
    grey[at] = 0.7 * (level >> 16) + 60;
  }
  return {
    ...picture, image, grey, maps: bytes(picture.maps),
    lines: await Promise.all(picture.classes.map((one) => one.outline && decoded(one.outline))),
    attention: picture.attention && bytes(picture.attention),
    across: between(width, cols), down: between(height, rows),
  };
}

/** For each of `size` pixels the patches whose centres it lies between, and how far along. */
function between(size, patches) {
  const at = Float32Array.from({ length: size }, (_, pixel) =>
    Math.min(Math.max(((pixel + 0.5) * patches) / size - 0.5, 0), patches - 1));
  return [Uint16Array.from(at, Math.floor), Uint16Array.from(at, Math.ceil), at.map((x) => x % 1)];
}

/** Put a picture on a canvas, and over it the outline of a thing, if there is one. */
function paint(canvas, picture, line) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (picture instanceof ImageData) context.putImageData(picture, 0, 0);
  else context.drawImage(picture, 0, 0);
  if (line) context.drawImage(line, 0, 0);
}

/** Lay a map over a picture; `roots` are the roots of its values, 255 the highest. */
function lay(canvas, picture, roots, opacity, line) {
  const { width, height, cols, grey } = picture;
  const [left, right, far] = picture.across, [above, below, low] = picture.down;
  const shown = new ImageData(width, height), out = new Uint32Array(shown.data.buffer);
  const heat = Float32Array.from(roots, (root) => (root / 255) ** 2);
  const row = new Float32Array(cols);
  for (let y = 0, at = 0; y < height; y++) {
    for (let col = 0; col < cols; col++) {
      const from = heat[above[y] * cols + col];
      row[col] = from + (heat[below[y] * cols + col] - from) * low[y];
    }
    for (let x = 0; x < width; x++, at++) {
      const value = row[left[x]] + (row[right[x]] - row[left[x]]) * far[x];
      const weight = opacity * Math.sqrt(value), light = grey[at] * (1 - weight) + 0.5;
      const level = 3 * Math.min(Math.floor(value * 256), 255);
      out[at] = 0xff000000 | ((light + colours[level + 2] * weight) << 16) | // blue is a high byte
        ((light + colours[level + 1] * weight) << 8) | (light + colours[level] * weight);
    }
  }
  paint(canvas, shown, line);
}

/** What the form says. */
function chosen() {
  const [target, fusion] = ["class", "fusion"].map((name) =>
    Number(document.querySelector(`[name=${name}]:checked`)?.value ?? 0));
  const [ratio, opacity, first, second] = ["ratio", "opacity", "first", "second"].map((name) =>
    Number(byId(name).value));
  const count = byId("beside").checked ? data.methods.length : 1;
  return { target, fusion, ratio, opacity, methods: [first, second].slice(0, count) };
}

/** Where what belongs to a choice is: a first place, and steps for class, fusion and ratio. */
const place = ([start, ...steps], { target, fusion, ratio }) =>
  start + target * steps[0] + fusion * steps[1] + ratio * steps[2];

/** A choice's map: the roots of its values, and the highest value. */
function mapOf(index, choice) {
  const { maps, scales, rows, cols, places } = state.picture;
  const at = place(places[index].map, choice);
  return { roots: maps.subarray(at * rows * cols, (at + 1) * rows * cols), highest: scales[at] };
}

/** Draw one method's pane. */
function drawMap(pane, index, choice) {
  const picture = state.picture, method = data.methods[index], one = picture.classes[choice.target];
  const canvas = pane.querySelector("canvas"), { roots, highest } = mapOf(index, choice);
  lay(canvas, picture, roots, choice.opacity, picture.lines[choice.target]);
  const said = picture.said[place(picture.places[index].said, choice)];
  const [textContent, mark] = picture.verdicts[said] ?? ["", ""];
  Object.assign(pane.querySelector(".verdict"), { textContent, className: `verdict ${mark}` });
  pane.querySelector(".scale b").textContent = short(highest);
  pane.querySelector(".note").textContent = method.asks ? "" : "The same map for every class.";
  const whose = method.asks && one ? `for “${one.name}”` : "for any class";
  canvas.ariaLabel = `${method.label}, ${whose}, over ${picture.name}. ${textContent}`;
}

/** The picture itself; while a patch is pointed at, what attends to that patch, and in words. */
function drawPicture(choice) {
  const { picture, patch } = state, { rows, cols, attention } = picture, size = rows * cols;
  const canvas = panes[2].querySelector("canvas"), on = patch !== null;
  const shows = on && attention?.subarray(patch * size, (patch + 1) * size);
  if (shows) lay(canvas, picture, shows, choice.opacity);
  else paint(canvas, picture.image, picture.lines[choice.target]);
  byId("shows").textContent = shows ? "What attends to this patch" : picture.name;
  canvas.ariaLabel = byId("shows").textContent;
  byId("patch").textContent = on ? textOf(patch, choice) : "";
  byId("hint").hidden = on;
  for (const box of document.querySelectorAll(".frame i")) {
    box.hidden = !on;
    box.style.cssText = `left:${(100 * (patch % cols)) / cols}%;width:${100 / cols}%;` +
      `top:${(100 * Math.floor(patch / cols)) / rows}%;height:${100 / rows}%`;
  }
}

function textOf(patch, choice) {
  const { cols, most, leading } = state.picture;
  const where = (at) => `row ${Math.floor(at / cols) + 1}, column ${(at % cols) + 1}`;
  const said = [...new Set(choice.methods)].map((index) => {
    const { roots, highest } = mapOf(index, choice), share = (roots[patch] / 255) ** 2;
    return `${data.methods[index].label}: ${short(share * highest)} (highest: ${short(highest)}).`;
  });
  if (most) said.push(`What attends to it most is ${leading[patch] === patch ? "it itself" :
    `the patch in ${where(leading[patch])}`}, with ${percent(most[patch])} of its attention.`);
  return [`Patch in ${where(patch)}.`, ...said].join(" ");
}

/** Draw all that the form says. */
function draw() {
  const choice = chosen(), shown = choice.methods.map((index) => data.methods[index]);
  panes[1].hidden = shown.length === 1;
  byId("panes").classList.toggle("alone", shown.length === 1);
  choice.methods.forEach((index, at) => drawMap(panes[at], index, choice));
  drawPicture(choice);
  const discards = shown.some((method) => method.discards), ratio = data.ratios[choice.ratio];
  byId("ratio").disabled = byId("play").disabled = !discards;
  byId("discarded").textContent = discards ? ratio.toFixed(3) : "none";
  byId("ratio").ariaValueText = ratio.toFixed(3);
  byId("opaque").textContent = choice.opacity.toFixed(2);
  byId("fusions").disabled = !shown.some((method) => method.fuses);
}

function usePicture(index) {
  const picture = state.pictures[index], { width, height, classes } = picture;
  Object.assign(state, { picture, patch: null, pinned: null });
  panes.forEach((pane) => Object.assign(pane.querySelector("canvas"), { width, height }));
  byId("classes").hidden = !classes.length;
  byId("classes").querySelectorAll(".key").forEach((old) => old.remove());
  byId("classes").append(...classes.map(({ name, names, probability }, at) => {
    const share = element("small", { textContent: percent(probability) });
    const bar = element("i", { style: `width:${100 * probability}%` });
    return Object.assign(key("class", at, `${name} `, share, bar), { title: names });
  }));
  draw();
}

/** Let the ratio run, as a film, or stop it. */
function play(on) {
  clearInterval(state.timer);
  state.timer = on && setInterval(() => {
    byId("ratio").value = (chosen().ratio + 1) % data.ratios.length;
    draw();
  }, 250);
  byId("play").textContent = on ? "Stop" : "Play";
}

function point(patch, pinned = state.pinned) {
  Object.assign(state, { patch, pinned });
  drawPicture(chosen());
}

/** A patch stays pointed at when it is clicked, tapped, or reached with the arrow keys. */
function listen(canvas) {
  const under = ({ offsetX, offsetY }) => {
    const { rows, cols } = state.picture, { clientHeight, clientWidth } = canvas;
    const row = Math.min(Math.floor((offsetY / clientHeight) * rows), rows - 1);
    return row * cols + Math.min(Math.floor((offsetX / clientWidth) * cols), cols - 1);
  };
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse" && state.patch !== under(event)) point(under(event));
  });
  canvas.addEventListener("pointerleave", () => point(state.pinned));
  canvas.addEventListener("click", (event) => {
    const patch = state.pinned === under(event) ? null : under(event);
    point(patch, patch);
  });
  canvas.addEventListener("keydown", (event) => {
    const { rows, cols } = state.picture, at = state.patch ?? (rows >> 1) * cols + (cols >> 1);
    const to = {
      ArrowLeft: at % cols > 0 ? at - 1 : at, ArrowRight: (at + 1) % cols > 0 ? at + 1 : at,
      ArrowUp: at < cols ? at : at - cols, ArrowDown: at + cols < rows * cols ? at + cols : at,
      Escape: null,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault(); // or the page would scroll
    point(to, to);
  });
}

async function start() {
  state.pictures = await Promise.all(data.pictures.map(load));
  for (const list of document.querySelectorAll("select")) {
    list.append(...data.methods.map(({ label }, index) => new Option(label, index)));
  }
  byId("second").selectedIndex = 1;
  byId("beside").parentElement.hidden = data.methods.length === 1;
  byId("ratio").max = data.ratios.length - 1;
  byId("fusions").append(...data.fusions.map((name, index) => key("fusion", index, name)));
  byId("pictures").hidden = data.pictures.length === 1;
  byId("pictures").append(...data.pictures.map(({ name, src }, index) =>
    key("picture", index, element("img", { src, alt: name, title: name }))));
  const stops = [0, 64, 128, 191, 255].map((at) => `rgb(${colours.slice(3 * at, 3 * at + 3)})`);
  document.documentElement.style.setProperty("--scale", stops);
  panes.forEach((pane) => listen(pane.querySelector("canvas")));
  byId("choices").addEventListener("input", ({ target }) => {
    play(false);
    target.name === "picture" ? usePicture(Number(target.value)) : draw();
  });
  byId("play").addEventListener("click", () => play(!state.timer));
  usePicture(0);
}

start();
