// One turn on the page: what the user said, and beside each other the lanes that answer it.

import { copyButton, el, iconButton } from "./dom.js";

export class TurnView {
  /** `onEdit(text)` is called with what the user would rather have said. */
  constructor(turn, numLanes, onEdit) {
    this.turn = turn;
    this.onEdit = onEdit;
    this.lanes = Array.from({ length: numLanes }, () => ({ element: el("div", { class: "lane" }), views: [] }));
    this.said = el("div", { class: "said" });
    this.element = el(
      "section",
      { class: "turn" },
      this.said,
      el("div", { class: numLanes > 1 ? "lanes two" : "lanes" }, ...this.lanes.map((lane) => lane.element)),
    );
    this.show();
  }

  add(lane, view) {
    this.lanes[lane].views.push(view);
    this.lanes[lane].element.append(view.element);
  }

  /** Take the last reply of a lane away. */
  drop(lane) {
    this.lanes[lane].views.pop().element.remove();
  }

  settle() {
    for (const { views } of this.lanes) views.at(-1)?.settle();
  }

  show() {
    const { text } = this.turn;
    const actions = el("div", { class: "actions" }, copyButton("Copy message", () => text));
    actions.append(iconButton("edit", "Edit and send again", () => this.edit()));
    this.said.replaceChildren(el("p", { class: "said-text", dir: "auto" }, text), actions);
  }

  edit() {
    const field = el("textarea", { rows: "3", dir: "auto", "aria-label": "Your message", required: true });
    field.value = this.turn.text;
    const cancel = () => {
      this.show();
      this.said.querySelector("[aria-label^='Edit']").focus();
    };
    const form = el(
      "form",
      { class: "edit" },
      field,
      el(
        "div",
        { class: "edit-actions" },
        el("button", { type: "button", class: "quiet", onclick: cancel }, "Cancel"),
        el("button", { class: "primary" }, "Send again"),
      ),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.onEdit(field.value);
    });
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      cancel();
    });
    this.said.replaceChildren(form);
    field.focus();
  }
}
