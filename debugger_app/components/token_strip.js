// A row of tokens, coloured by one number a token. Text arrives as data and is shown by textContent alone.
export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".strip");
  const legend = parentElement.querySelector(".legend");
  const { tokens, scale, selected, label } = data;
  root.setAttribute("aria-label", label);
  legend.replaceChildren();
  for (const text of scale.steps) {
    const step = document.createElement("span");
    step.className = "step";
    step.style.backgroundColor = text.colour;
    step.style.color = text.ink;
    step.textContent = text.label;
    legend.append(step);
  }
  const note = document.createElement("span");
  note.textContent = scale.title;
  legend.append(note);

  const buttons = tokens.map((token, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = token.text;
    button.title = token.hint;
    button.setAttribute("aria-label", token.hint);
    button.className = "token" + (token.control ? " control" : "") + (token.crossing ? " crossing" : "");
    button.style.backgroundColor = token.colour;
    button.style.color = token.ink;
    button.tabIndex = index === selected ? 0 : -1;
    button.setAttribute("aria-pressed", String(index === selected));
    button.onclick = () => choose(index);
    return button;
  });
  if (selected === null && buttons.length) buttons[0].tabIndex = 0;

  const pieces = [];
  tokens.forEach((token, index) => {
    if (token.heading) {
      const heading = document.createElement("div");
      heading.className = "heading";
      heading.textContent = token.heading;
      pieces.push(heading);
    }
    pieces.push(buttons[index]);
    if (token.breaks) pieces.push(document.createElement("br"));
  });
  root.replaceChildren(...pieces);

  function choose(index) {
    buttons.forEach((button, at) => {
      button.tabIndex = at === index ? 0 : -1;
      button.setAttribute("aria-pressed", String(at === index));
    });
    buttons[index].focus();
    setStateValue("selected", index);
  }

  root.onkeydown = (event) => {
    const at = buttons.indexOf(parentElement.activeElement ?? document.activeElement);
    if (at < 0) return;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to === undefined || to < 0 || to >= buttons.length) return;
    event.preventDefault();
    buttons[at].tabIndex = -1;
    buttons[to].tabIndex = 0;
    buttons[to].focus();
  };
}
