// One attention head as a heat map: queries down, keys across. Numbers arrive as little-endian float32 in base64,
// token texts as data; text is shown by textContent alone.
const SIDE = 460; // pixels

export default function ({ data, parentElement, setTriggerValue }) {
  const row = parentElement.querySelector(".row");
  const said = parentElement.querySelector("output");
  row.replaceChildren(...data.tiles.map(draw));
  said.textContent = data.help;

  function draw(tile) {
    const values = decoded(tile.values);
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = tile.title;
    const canvas = document.createElement("canvas");
    canvas.width = tile.columns;
    canvas.height = tile.rows;
    const cell = Math.max(1, Math.floor(SIDE / Math.max(tile.rows, tile.columns)));
    canvas.style.width = `${tile.columns * cell}px`;
    canvas.style.height = `${tile.rows * cell}px`;
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${tile.title}. ${data.help}`);
    figure.append(caption, canvas);
    paint(canvas, tile, values);

    let at = [0, 0];
    const tell = (r, c) => {
      at = [Math.min(tile.rows - 1, Math.max(0, r)), Math.min(tile.columns - 1, Math.max(0, c))];
      const weight = values[at[0] * tile.columns + at[1]];
      const from = tile.row + at[0] * tile.step;
      const to = tile.column + at[1] * tile.step;
      const what = tile.step > 1 ? `largest of ${tile.step} × ${tile.step} weights from` : "weight of";
      said.textContent = `${what} token ${from} ${named(from)} on token ${to} ${named(to)}: ${weight.toPrecision(3)}`;
      return [from, to];
    };
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [
        Math.floor(((event.clientY - box.top) / box.height) * tile.rows),
        Math.floor(((event.clientX - box.left) / box.width) * tile.columns),
      ];
    };
    canvas.onmousemove = (event) => tell(...place(event));
    canvas.onclick = (event) => setTriggerValue("cell", tell(...place(event)));
    canvas.onkeydown = (event) => {
      const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      if (event.key === "Enter") setTriggerValue("cell", tell(...at));
      else if (move) tell(at[0] + move[0], at[1] + move[1]);
      else return;
      event.preventDefault();
    };
    return figure;
  }

  function named(token) {
    const text = data.texts[token - data.first];
    return text === undefined ? "" : `“${text}”`;
  }
}

function decoded(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

function paint(canvas, tile, values) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(tile.columns, tile.rows);
  for (let i = 0; i < values.length; i++) {
    // The root makes small weights visible; the legend says so. Blue on whatever the page's ground is.
    image.data.set([0, 114, 178, Math.round(255 * Math.sqrt(Math.min(1, Math.max(0, values[i]))))], 4 * i);
  }
  context.putImageData(image, 0, 0);
}
