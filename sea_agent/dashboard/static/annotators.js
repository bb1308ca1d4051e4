// Who answered and how well, from the feedback service beside which this page is served.

import { get } from "./api.js";
import { field, h, headings, options, wide } from "./dom.js";
import { NONE, count, interval, percent, plural, rate } from "./format.js";
import { Panel } from "./panel.js";
import { change, state } from "./state.js";

const ALONE = "Labels of people are kept by the feedback service. Start it with this directory to see them here: sea-agent serve --runs DIR";

export class Annotators {
  constructor(headline) {
    this.panel = new Panel("annotators", "Annotators");
    this.headline = headline;
    this.pick = h("select", { onchange: () => change({ annotations: this.pick.value }) });
    this.about = h("p", { class: "flow" });
    this.table = h("table", { class: "figures" });
    this.panel.body.append(field("Run of the service", this.pick), this.about, wide("Annotators", this.table, "scroll"));
    this.panel.define("");
  }

  /** `own` is the service's run that the chosen run asks, where it asks people. */
  async update(service, own) {
    if (!service) {
      this.headline.setAgreement(null, "from the feedback service");
      return this.panel.fail(ALONE);
    }
    await this.panel.show(() => this.#load(own), (data) => this.#draw(data));
  }

  async #load(own) {
    const { runs } = await get("/v1/runs");
    const ids = runs.map(({ id }) => id);
    const run = [state.annotations, own, ids[0]].find((id) => ids.includes(id));
    options(this.pick, runs.map(({ id, name }) => [id, name ? `${name} (${id})` : id]), run);
    if (!run) return { run: null };
    const about = (what, of = run) => get(`/v1/runs/${encodeURIComponent(of)}/${what}`);
    const [agreement, { annotators }] = await Promise.all([about("agreement"), about("annotators")]);
    const asked = own === run ? agreement : ids.includes(own) ? await about("agreement", own) : null;
    return { run, agreement, annotators, asked };
  }

  /** `asked` is the agreement on the duels of the chosen run, whichever of the service's runs the panel shows. */
  #draw({ run, agreement, annotators, asked }) {
    if (!run) {
      this.headline.setAgreement(null, "no run in the service");
      return this.panel.fail("The service holds no run yet.");
    }
    this.headline.setAgreement(asked, asked ? "fewer than two votes on any duel" : "the chosen run asks nobody here");
    const share = (found) => (found.n ? percent(found.share) : NONE);
    this.about.textContent = `α ${rate(agreement.alpha, 2)} ${interval(agreement.alpha_low, agreement.alpha_high, (value) => rate(value, 2))} · gold ${share(agreement.gold_accuracy)} · the same answer again ${share(agreement.self_agreement)} · shown first ${share(agreement.first_shown)}`;
    this.table.replaceChildren(
      headings(["Annotator", "Answers", "Median s", "With others", "Gold", "Again", "Shown first"]),
      h("tbody", {}, annotators.map((one) =>
        h("tr", {}, h("th", { scope: "row" }, one.annotator), [count(one.answers), rate(one.median_s, 1), share(one.with_others), share(one.gold_accuracy), share(one.self_agreement), share(one.first_shown)].map((text) => h("td", {}, text))),
      )),
    );
    this.panel.define(
      "α: Krippendorff's, over duels with two votes or more, 95 % bootstrap interval over duels. With others: agreement with the most frequent vote of the others. Gold: duels with a known answer. Again: the same answer to a repeated duel. Shown first: decided answers for the response that was shown first.",
      `n = ${plural(agreement.votes, "vote")} on ${plural(agreement.duels, "duel")}, ${count(agreement.compared)} with two or more.`,
    );
  }
}
