// A text whose marked pieces say what was found in them. Text arrives as data and is shown by textContent alone.
export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".text");
  root.replaceChildren(
    ...data.pieces.map(({ text, label }) => {
      if (!label) {
        const plain = document.createElement("span");
        plain.textContent = text;
        return plain;
      }
      const mark = document.createElement("mark");
      const name = document.createElement("small");
      mark.textContent = text;
      name.textContent = label;
      mark.append(name);
      return mark;
    })
  );
}
