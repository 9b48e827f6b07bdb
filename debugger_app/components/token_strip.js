// A row of tokens, coloured by one number a token. Text arrives as data and is shown by textContent alone.
export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".strip");
  const legend = parentElement.querySelector(".legend");
  const { tokens, scale, marks, selected, label } = data;
  root.setAttribute("aria-label", label);

  const piece = (name, text, className) => {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    return made;
  };
  // Blue from zero up, vermilion below; never stronger than 60 %, so that text stays readable in both themes.
  const colour = (share) =>
    share === null
      ? "transparent"
      : `color-mix(in srgb, ${share < 0 ? "#d55e00" : "#0072b2"} ${Math.abs(share) * 60}%, transparent)`;
  legend.replaceChildren();
  for (const step of scale.steps) {
    const made = piece("span", step.label, "step");
    made.style.backgroundColor = colour(step.share);
    legend.append(made);
  }
  legend.append(piece("span", scale.title, "note"));
  for (const mark of marks) legend.append(piece("span", "abc", "mark " + mark.kind), piece("span", mark.means, "note"));

  const buttons = tokens.map((token, index) => {
    const button = piece("button", token.text, ["token", ...token.marks].join(" "));
    button.type = "button";
    button.title = token.hint;
    button.setAttribute("aria-label", token.hint);
    button.style.backgroundColor = colour(token.share);
    button.tabIndex = index === selected ? 0 : -1;
    button.setAttribute("aria-pressed", String(index === selected));
    button.onclick = () => choose(index);
    return button;
  });
  if (selected === null && buttons.length) buttons[0].tabIndex = 0;

  const pieces = [];
  tokens.forEach((token, index) => {
    if (token.heading) pieces.push(piece("div", token.heading, "heading"));
    pieces.push(buttons[index]);
    if (token.breaks) pieces.push(document.createElement("br"));
  });
  // Whoever walks along the tokens while the page is drawn again stays where they are.
  const focus = root.getRootNode().activeElement;
  const walked = buttons[[...root.querySelectorAll("button")].indexOf(focus)];
  root.replaceChildren(...pieces);
  if (walked) {
    for (const button of buttons) button.tabIndex = button === walked ? 0 : -1;
    walked.focus();
  }

  function choose(index) {
    buttons.forEach((button, at) => {
      button.tabIndex = at === index ? 0 : -1;
      button.setAttribute("aria-pressed", String(at === index));
    });
    buttons[index].focus();
    setStateValue("selected", index);
  }

  root.onkeydown = (event) => {
    const at = buttons.findIndex((button) => button.tabIndex === 0);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (at < 0 || to === undefined || to < 0 || to >= buttons.length) return;
    event.preventDefault();
    buttons[at].tabIndex = -1;
    buttons[to].tabIndex = 0;
    buttons[to].focus();
  };
}
