"""What the sentences of reports say: each reader computes its sentence again and complains of what differs."""

import re

import numpy as np
from claims_by_hand import KINDS, METRICS, TASKS, decide, minus
from claims_in_pages import (
    BY,
    ENDS,
    FRAGILE,
    HEADLINE,
    NUMBER,
    RANDOM,
    TRIVIAL,
    WORD,
    Table,
    Wrong,
    clauses,
    counts,
    describe,
    equal,
    fragile,
    is_claims,
    joined,
    same,
    same_size,
    words,
)

MARGIN = rf"({NUMBER}) points \({ENDS}{FRAGILE}\)"


def whole(pattern, text):
    """All matches of a pattern that together are the text."""
    found, at = [], 0
    for match in re.finditer(pattern, text):
        if match.start() != at:
            break
        found.append(match.groups())
        at = match.end()
    if at != len(text) or not found:
        raise Wrong(f"cannot be read from {text[at : at + 40]!r} on")
    return found


def options(names):
    return "|".join(re.escape(n) for n in sorted(names, key=len, reverse=True))


def seeds_text(claims):
    seeds = [c.seeds for c in claims if c.verdict != "no claim"]
    low, high = min(seeds), max(seeds)
    return f"{low} to {high} seeds" if low < high else f"{low} seed{'s' * (low != 1)}"


def by_verdict(claims, verdict):
    return [c for c in claims if c.verdict == verdict]


def leading(claims):
    """The largest that is better, else the largest loss that is worse, else the largest that is undecided."""
    for verdict, sign in (("better", 1), ("worse", -1), ("undecided", 1), ("no claim", 1)):
        if part := by_verdict(claims, verdict):
            return max(part, key=lambda c: -np.inf if np.isnan(c.value) else sign * c.value)


def is_lead(claim, claims):
    if claim is not leading(claims):
        raise Wrong(f"{describe(claim)} does not lead: {describe(leading(claims))} does")


def says(claim, verdict):
    equal(verdict, claim.verdict, f"{describe(claim)}: the verdict")


def everyone(named, claims, verdict):
    """The named comparisons are all those of a verdict."""
    equal(
        sorted(named), sorted(describe(c) for c in by_verdict(claims, verdict)), f"the list of those that are {verdict}"
    )


def rule(r, number, family):
    if family == "this table":
        table = r.last
    elif family.startswith("the table “"):
        table = next(t for t in r.parts if isinstance(t, Table) and f"“{t.heading}”" in family)
    else:
        (table,) = [t for t in r.parts if isinstance(t, Table) and is_claims(t)]
    if not is_claims(table):
        raise Wrong(f"{family} has no comparisons")
    r.told = table.claims
    equal(
        1 if number == "one" else int(number), sum(not np.isnan(c.p) for c in table.claims), "the number of comparisons"
    )


def without_claim(r, number):
    equal(int(number), sum(np.isnan(c.p) for c in r.told), "the number of comparisons without a claim")


def fragile_means(r):
    if not any(c.fragile for c in r.told):
        raise Wrong("nothing is fragile here")


# glue


def shown(r):
    """The highlighted comparisons, by kind of method; computed once for the same comparisons."""
    key = f"shown {[id(c) for c in r.claims]}"
    if key not in r.cache:
        r.cache[key] = _shown(r)
    return r.cache[key]


def _shown(r):
    marks, titles, shown = r.study.plan.get("highlights", {}), r.study.plan["titles"], []
    for claim in r.claims:
        models = r.study.runs(task=claim.about["task"], method=claim.about["method"])
        model = next(iter(models.values()))
        step = model.record["step"]
        variant = model.title.removeprefix(titles.get(step, step)).removeprefix(": ")
        if variant in marks.get(step, [variant]):
            shown.append((claim, model))
    steps = {(m.record["experiment"], m.record["step"]) for _, m in shown}
    found = {}
    for claim, model in shown:
        base = next(iter(r.study.runs(task=claim.about["task"], method=claim.about["base"]).values()))
        found.setdefault(_kind_of(model, base, steps, titles), []).append(claim)
    return found


def _kind_of(model, base, steps, titles):
    """What a sentence calls a method: by its experiment; by its step's title where several steps have that experiment."""
    experiment, step = model.record["experiment"], model.record["step"]
    own, before = model.record["parameters"], base.record["parameters"]
    if experiment == "finetune":
        more = (own.get("epochs") or 0) > (before.get("epochs") or 0) and own.get("lora") == before.get("lora")
        return KINDS[experiment] if more else model.title
    if experiment in KINDS and sum(e == experiment for e, _ in steps) > 1:
        title = titles.get(step, step)
        return title[0].lower() + title[1:]
    return KINDS.get(experiment, model.title)


def _of_kind(r, claims, task, method, kind):
    """The claim that is meant: by the method's title, or by its variant where the kind is the step's title."""
    names = {c.about["method"] for c in claims}
    shown = method[0] if method else kind
    full = [n for n in names if n.lower() == f"{kind}: {shown}".lower()]
    return r.find(task=task, method=full[0] if method and full else shown)


def _gains(r, text, kinds):
    """Items such as '+13.4 points (−9.9 … 36.6; CoLA; BERT, 3 epochs) for more fine-tuning'."""
    read = whole(rf"{BY} for ({options(kinds)})(?:, | and |$)", text)
    equal([kind for *_, kind in read], list(kinds), "the kinds of methods")
    for size, low, high, without, about, kind in read:
        task, *method = about.split("; ")[1:]
        claim = _of_kind(r, kinds[kind], task, method, kind)
        if claim not in kinds[kind]:
            raise Wrong(f"{describe(claim)} is not of the kind {kind}")
        is_lead(claim, kinds[kind])
        same_size(claim, size, low, high, without)


def glue_undecided(r, seeds, names, base, items):
    kinds = shown(r)
    every = [c for part in kinds.values() for c in part]
    equal(names, joined(list(kinds), "or"), "the kinds of methods")
    equal(base, every[0].about["base"], "the baseline")
    equal(sorted({c.verdict for c in every} - {"no claim"}), ["undecided"], "the verdicts")
    equal(seeds, seeds_text(every), "the number of seeds")
    _gains(r, items, kinds)


def glue_decided(r, text, seeds, items):
    kinds, told = shown(r), []
    names = options(kinds)
    for clause in clauses(text):
        kind, rest = re.fullmatch(rf"({names}) (?:is|are) (.+)", clause, re.I).groups()
        kind = next(k for k in kinds if k.lower() == kind.lower())
        told.append(kind)
        read = whole(rf"(better|worse)(?: than (.+?))? on (\d+) of (\d+) tasks, by up to {BY}(?: and |$)", rest)
        equal(
            [v for v, *_ in read],
            [v for v in ("better", "worse") if by_verdict(kinds[kind], v)],
            f"{kind}: the verdicts",
        )
        for verdict, _, k, n, size, low, high, without, about in read:
            part = by_verdict(kinds[kind], verdict)
            equal(
                (int(k), int(n)),
                tuple(len({c.about["task"] for c in p}) for p in (part, kinds[kind])),
                f"{kind}: the tasks",
            )
            task, *method = about.split("; ")[1:]
            claim = _of_kind(r, kinds[kind], task, method, kind)
            is_lead(claim, part)
            same_size(claim, size, low, high, without)
    equal(
        sorted(told),
        sorted(k for k, part in kinds.items() if by_verdict(part, "better") + by_verdict(part, "worse")),
        "the kinds",
    )
    equal(seeds, seeds_text([c for part in kinds.values() for c in part]), "the number of seeds")
    rest = {k: part for k, part in kinds.items() if k not in told}
    if bool(items) != bool(rest):
        raise Wrong(f"undecided are {list(rest)}")
    if items:
        _gains(r, items, rest)


def against_trivial(r, method):
    """The first method against the trivial predictor: one family of all its tasks and encoders."""
    step = r.study.plan["jobs"][0]["step"]
    method = method or r.study.plan.get("titles", {}).get(step, step)  # a study of one method does not name it
    key = f"trivial {method}"
    if key not in r.cache:
        pairs = {(m.record["task"], r.study._encoder(m)): None for m in r.study.models if m.title == method}
        found = []
        for task, encoder in pairs:
            title, metric, split = TASKS[task]
            ours = r.seeds(split, task=title, encoder=encoder, method=method)
            found.append(
                r.study.compare({"task": title, "encoder": encoder, "base": TRIVIAL}, ours, None, split, metric)
            )
        r.cache[key] = decide(found)
    return r.cache[key]


def glue_trivial(r, text):
    first, *rest = clauses(text)
    encoder, method, k, n, items = re.fullmatch(
        r"(\S+)(?: \((.+?)\))? is better than the trivial baseline on (\d+) of (\d+) tasks(?: \((.*)\))?", first
    ).groups()
    mine = [c for c in against_trivial(r, method) if c.about["encoder"] == encoder]
    by_task = {c.about["task"]: c for c in mine}
    equal((int(k), int(n)), (len(by_verdict(mine, "better")), len(mine)), "the numbers of tasks")
    better = whole(rf"({options(by_task)}) by {BY}(?:, |$)", items) if items else []
    everyone([describe(by_task[t]) for t, *_ in better], mine, "better")
    for task, size, low, high, without, _ in better:
        same_size(by_task[task], size, low, high, without)
    told = ["better"]
    for clause in rest:
        verdict, why, items = re.fullmatch(r"(worse|undecided|no claim)(?: \((.+?)\))? on (.+)", clause).groups()
        told.append(verdict)
        read = whole(rf"({options(by_task)}) \(({NUMBER})(?:, {ENDS})?\)(?:, |$)", items)
        everyone([describe(by_task[t]) for t, *_ in read], mine, verdict)
        for task, size, low, high in read:
            same(size, by_task[task].value, f"{task}: the difference")
            if low:
                same(low, by_task[task].low, f"{task}: the lower end")
            if high:
                same(high, by_task[task].high, f"{task}: the upper end")
    equal(sorted({c.verdict for c in mine} | {"better"}), sorted(told), "the verdicts")


def published(r, name, k, n, low, high):
    column = "Published BERT-base" if name.startswith("Published") else "Published"
    table = next(t for t in r.parts if isinstance(t, Table) and {"Score", column} <= set(t.columns))
    step = r.study.plan["jobs"][0]["step"]
    first, gaps = table.rows[0].get("Method", r.study.plan.get("titles", {}).get(step, step)), []
    for row in table.rows:
        metric, split = HEADLINE[row["Task"]]
        if row.get("Method", first) != first or METRICS[row["Metric"]] != metric or not row[column]:
            continue
        runs = r.seeds(split, task=row["Task"], method=first)
        mean = np.mean([r.study.contributions(m, split, metric).mean() for m in runs.values()])
        gaps.append(100 * mean - float(row[column].rstrip("†")))
    equal((int(k), int(n)), (sum(g < 0 for g in gaps), len(gaps)), "the number of published scores that are higher")
    for printed, own in ((low, min(gaps)), (high, max(gaps))):
        if abs(minus(printed) - own) > 0.06:
            raise Wrong(f"a gap is printed as {printed}, it is {own:.2f}")


def method_verdict(r, method, text):
    mine = r.some(method=method)
    by_task, base = {c.about["task"]: c for c in mine}, mine[0].about["base"]
    item = rf"({options(by_task)}) \(({NUMBER})(?:, {ENDS})?(?:, fragile: ({NUMBER}|nothing left) without collapsed seeds)?\)(?:, |$)"
    told = []
    for i, clause in enumerate(clauses(text)):
        link = "" if i else rf" (?:than|against) {re.escape(base)}"
        found = re.fullmatch(rf"(better|worse|undecided)(?:{link}) on (.+)|(no claim) on (.+): (.+)", clause)
        if not found:
            raise Wrong(f"cannot be read: {clause!r}")
        verdict, items = found[1] or found[3], found[2] or found[4]
        read = whole(item, items)
        told.append(verdict)
        everyone([describe(by_task[t]) for t, *_ in read], mine, verdict)
        for task, size, low, high, without in read:
            claim = by_task[task]
            same(size, claim.value, f"{describe(claim)}: the difference")
            if (low is None) != (verdict not in ("better", "worse")):
                raise Wrong(f"{describe(claim)}: an interval too many or too few")
            if low:
                same(low, claim.low, f"{describe(claim)}: the lower end")
            if high:
                same(high, claim.high, f"{describe(claim)}: the upper end")
            fragile(claim, without)
    equal(sorted(told), sorted({c.verdict for c in mine}), f"{method}: the verdicts")


# attention


def attention_answer(r, better, better_by, worse, worse_by, seeds, undecided, undecided_by, told):
    method, by = (better or worse or undecided), (better_by or worse_by or undecided_by)
    size, low, high, without, about = re.fullmatch(BY, by).groups()
    claim = r.find(method=method, task=about.removeprefix("; "))
    same_size(claim, size, low, high, without)
    says(claim, "better" if better else "worse" if worse else "undecided")
    if undecided:
        made = [c for c in r.claims if c.verdict != "no claim"]
        equal(sorted({c.verdict for c in made}), ["undecided"], "the verdicts")
        equal(seeds, seeds_text(made), "the number of seeds")
        if abs(claim.value) < max(abs(c.value) for c in made):
            raise Wrong(f"{describe(claim)} does not differ most")
    else:
        is_lead(claim, r.claims)
    equal(told, counts(r.claims), "the counts")


def attention_task(r, task, best, score, trivial, text):
    mine = r.some(task=task)
    metric, split = HEADLINE[task]
    means = {}
    for method in {c.about["method"] for c in mine} | {c.about["base"] for c in mine}:
        runs = r.seeds(split, task=task, method=method)
        means[method] = np.mean([r.study.contributions(m, split, metric).mean() for m in runs.values()])
        base = np.mean([r.study.trivial(m, split, metric).mean() for m in runs.values()])
    same(score, means[best], f"{task}, {best}: the score")
    if means[best] < max(means.values()):
        raise Wrong(f"{best} is not the best")
    same(trivial, base, f"{task}: the trivial score")
    told = []
    for clause in clauses(text):
        label, items = re.fullmatch(r"((?:better|worse|undecided|no claim).*?): (.+)", clause).groups()
        label = label.replace(" than full attention", "")
        part = [c for c in mine if words(c) == label]
        names = {c.about["method"]: c for c in part}
        if not part:
            raise Wrong(f"nothing is {label}")
        read = whole(rf"({options(names)}) \(({NUMBER})\)(?:, |$)", items)
        equal(sorted(m for m, _ in read), sorted(names), f"the list of those that are {label}")
        for method, size in read:
            same(size, names[method].value, f"{task}, {method}: the difference")
        told += names
    equal(sorted(told), sorted(c.about["method"] for c in mine), "the methods")


# pre-training


def longest(r):
    """The method that the study pre-trained longest, and names first of those."""
    steps = [j["step"] for j in r.study.plan["jobs"]]

    def order(model):
        kind, _, n = model.record["parameters"].get("checkpoint", "model").partition("/")
        return -(int(n) if kind == "steps" else 10**9), steps.index(model.record["step"])

    return min((m for m in r.study.models if m.record["experiment"] == "finetune"), key=order).title


def _on_tasks(r, method, text, mine):
    by_task = {c.about["task"]: c for c in mine}
    read = whole(rf"{BY} on ({options(by_task)})(?:, | and |$)", text)
    for size, low, high, without, _, task in read:
        same_size(by_task[task], size, low, high, without)
    return [describe(by_task[t]) for *_, t in read]


def pretraining_undecided(r, seeds, method, base, items, told):
    mine = r.some(method=method, base=base)
    equal(method, longest(r), "the longest pre-training")
    equal(sorted(_on_tasks(r, method, items, mine)), sorted(describe(c) for c in mine), "the tasks")
    equal(sorted({c.verdict for c in mine}), ["undecided"], "the verdicts")
    equal(seeds, seeds_text(mine), "the number of seeds")
    equal(told, counts(r.claims), "the counts")


def pretraining_decided(r, method, text, seeds, told):
    mine = r.some(method=method)
    equal(method, longest(r), "the longest pre-training")
    base, verdicts = mine[0].about["base"], []
    for part in re.split(r", (?=better|worse|undecided)", text):
        verdict, items = re.fullmatch(
            rf"(better|worse|undecided)(?: (?:than|against) {re.escape(base)})? by (.+)", part
        ).groups()
        everyone(_on_tasks(r, method, items, mine), mine, verdict)
        verdicts.append(verdict)
    equal(sorted(verdicts), sorted({c.verdict for c in mine}), "the verdicts")
    equal(seeds, seeds_text(mine), "the number of seeds")
    equal(told, counts(r.claims), "the counts")


# probes


def leads(claims):
    groups = {}
    for c in claims:
        groups.setdefault((c.about["task"], c.about["encoder"]), []).append(c)
    return sorted((leading(part) for part in groups.values()), key=lambda c: -c.value)


def _layers(r, text, base, lead, several):
    read = whole(rf"({options({c.about['task'] for c in r.claims})}) at layer (\d+) by {BY}(?:, | and |$)", text)
    equal(len(read), min(3, len(lead)), "the number of layers that are named")
    for (task, layer, size, low, high, without, about), own in zip(read, lead):
        side, *encoder = about.removeprefix("; ").split("; ")
        if bool(encoder) != several:
            raise Wrong(f"{task}: an encoder too many or too few")
        claim = r.find(
            task=task,
            layer=int(layer),
            side=side,
            base=base,
            metric=own.about["metric"],
            encoder=encoder[0] if encoder else own.about["encoder"],
        )
        if claim is not own:
            raise Wrong(f"{describe(own)} leads, not {describe(claim)}")
        same_size(claim, size, low, high, without)


def layers_answer(r, k, n, what, items, more):
    mine = r.some(base=TRIVIAL)
    lead = leads(mine)
    better, several = by_verdict(lead, "better"), len({c.about["encoder"] for c in mine}) > 1
    equal(what, "pairs of task and encoder" if several else "tasks", "what is counted")
    equal((int(k), int(n)), (len(better), len(lead)), "the numbers of tasks")
    equal(int(more or 0), max(0, len(better) - 3), "the number of others")
    _layers(r, items, TRIVIAL, better, several)


def layers_gained(r, told, verdict, task, layer, by):
    made = [c for c in r.some(base="pretrained") if c.verdict != "no claim"]
    equal(told, counts(made), "the counts")
    first = {}
    for c in made:
        first.setdefault(c.about["task"], c.about["metric"])
    lead = leading([c for c in made if c.about["metric"] == first[c.about["task"]]])
    equal((task, int(layer)), (lead.about["task"], lead.about["layer"]), "the layer that leads")
    says(lead, verdict)
    size, low, high, without, _ = re.fullmatch(BY, by).groups()
    same_size(lead, size, low, high, without)


_SOME = r"at layers? \d+(?:(?:, \d+)* and \d+)?"
_WHERE = rf"at every layer|from layer \d+ on(?: and {_SOME})?|{_SOME}"
_SIZE = (
    rf"(?: by ({NUMBER}) points \({ENDS}\)|, by up to ({NUMBER}) points \({ENDS}; layer (\d+)\)"
    rf"| \(most at layer (\d+): ({NUMBER}) points\))?"
)


def _set(where, layers):
    """The layers that a phrase names."""
    if where == "at every layer":
        return set(layers)
    named = {int(n) for n in re.findall(r"\d+", re.sub(r"from layer \d+ on", "", where))}
    on = re.match(r"from layer (\d+) on", where)
    return named | ({n for n in layers if n >= int(on[1])} if on else set())


def _profile(text, mine, other):
    """What is said of one profile: at which layers it is better, worse or undecided, and where most."""
    layers, told = {c.about["layer"]: c for c in mine}, {}
    read = whole(rf"(better|worse|undecided)(?: (?:than|against) {other})? ({_WHERE}){_SIZE}(?:, |$)", text)
    for verdict, where, one, low1, high1, size, low, high, at, most, far in read:
        told[verdict] = _set(where, layers)
        part = by_verdict(mine, verdict)
        lead = max(part, key=lambda c: abs(c.value)) if part else None
        if lead is None or told[verdict] != {c.about["layer"] for c in part}:
            raise Wrong(f"{verdict} are layers {sorted(c.about['layer'] for c in part)}")
        if (at or most) and int(at or most) != lead.about["layer"]:
            raise Wrong(f"{describe(lead)} is the largest")
        if verdict == "undecided":
            same(far or "", lead.value, f"{describe(lead)}: the difference")
        else:
            same_size(
                lead, one or size, low1 or low, high1 or high, None if not lead.fragile else f"{100 * lead.without:.1f}"
            )
    equal(sorted(told), sorted({c.verdict for c in mine}), "the verdicts")


def layers_task(r, task, metric, encoder, text):
    mine = [c for c in r.some(task=task, encoder=encoder) if c.about["metric"] == metric]
    layered = 0
    for clause in clauses(text):
        if not WORD.search(clause) and "is read best" not in clause:
            continue
        layered += 1
        if found := re.fullmatch(rf"layer (\d+) \(({NUMBER})\) is (.+)", clause):
            claim = next(c for c in mine if c.about["layer"] == int(found[1]) and words(c) == found[3])
            same(found[2], claim.value, describe(claim))
        elif found := re.fullmatch(
            rf"the (.+?) encoder is read best at layer (\d+) \(({NUMBER})\) and is (.+)", clause
        ):
            part = [c for c in mine if c.about["side"] == found[1] and c.about["base"] == TRIVIAL]
            best = max(part, key=lambda c: (round(c.mean, 12), -c.about["layer"]))
            equal(int(found[2]), best.about["layer"], f"{task}: the best layer")
            same(found[3], best.mean, f"{describe(best)}: the score")
            trivial = re.search(rf"the trivial predictor \(({NUMBER})\)", found[4])
            same(trivial[1], best.baseline, f"{task}: the trivial score")
            _profile(found[4], part, rf"the trivial predictor \({NUMBER}\)")
        elif found := re.fullmatch(r"the (.+?) encoder is ((?:better|worse|undecided) .+)", clause):
            other = re.search(r"(?:than|against) the (.+?) one", found[2])[1]
            _profile(
                found[2],
                [c for c in mine if c.about["side"] == found[1] and c.about["base"] == other],
                f"the {other} one",
            )
        else:
            raise Wrong(f"cannot be read: {clause!r}")
    sides = {(c.about["side"], c.about["base"]) for c in mine}
    if layered < len(sides):
        raise Wrong(f"of {len(sides)} profiles {layered} are told")


# subsets


def plain(r, base):
    return r.some(base=base, arm="epochs", frozen="full", metric="Accuracy (matched)")


def subsets_answer(r, better, better_by, worse, worse_by, budget, task, told):
    mine = plain(r, RANDOM)
    claim = r.find(strategy=better or worse, budget=budget, task=task, base=RANDOM, metric="Accuracy (matched)")
    says(claim, "better" if better else "worse")
    is_lead(claim, mine)
    same_size(claim, *re.fullmatch(MARGIN, better_by or worse_by).groups())
    equal(told, counts(mine, " at equal size"), "the counts")


def subsets_none(r):
    equal(sorted({c.verdict for c in plain(r, RANDOM)} - {"no claim"}), ["undecided"], "the verdicts")


def subsets_largest(r, told, strategy, budget, by, way):
    mine = plain(r, RANDOM)
    equal(told, counts(mine, " at equal size"), "the counts")
    claim = r.find(strategy=strategy, budget=budget, base=RANDOM, metric="Accuracy (matched)")
    if abs(claim.value) < max(abs(c.value) for c in mine):
        raise Wrong(f"{describe(claim)} is not the largest")
    equal(way, "above" if claim.value > 0 else "below", "the direction")
    size, low, high, _ = re.fullmatch(MARGIN, by).groups()
    same(size, abs(claim.value), describe(claim))
    ends = sorted((claim.low, claim.high)) if claim.value > 0 else sorted((-claim.low, -claim.high))
    same(low, ends[0], describe(claim)), same(high, ends[1], describe(claim))


def _models(text):
    return sorted(text.split(", ")) if text else []


def _strategy(r, name, text):
    mine = [c for c in plain(r, RANDOM) if c.about["strategy"] == name]
    told = []
    parts = whole(
        rf"(?:(better|worse) than random ((?:(?:, | and )?by {MARGIN} at [\d.]+ %)+)"
        r"|(undecided|without a claim) at ([\d. %]+(?:(?:, [\d.]+ %)* and [\d.]+ %)?)(?: \(.+?\))?)(?:, |$)",
        text,
    )
    for verdict, items, *_, other, budgets in parts:
        word = verdict or other.replace("without a claim", "no claim")
        part = {c.about["budget"]: c for c in mine if c.verdict == word}
        named = (
            re.findall(r"([\d.]+ %)", budgets)
            if budgets
            else [i[-1] for i in re.findall(rf"by {MARGIN} at ([\d.]+ %)", items)]
        )
        equal(sorted(named), sorted(part), f"{name}: the budgets that are {word}")
        for *size, budget in re.findall(rf"by {MARGIN} at ([\d.]+ %)", items or ""):
            same_size(part[budget], *size)
        told.append(word)
    equal(sorted(told), sorted({c.verdict for c in mine}), f"{name}: the verdicts")


def _gain(r, low, high, longer, equally, share):
    metric, split = HEADLINE["MNLI"]
    mean = lambda arm, budget: r.find(strategy=RANDOM, budget=budget, arm=arm, frozen="full", base=TRIVIAL).mean
    gains = [mean(arm, high) - mean(arm, low) for arm in ("epochs", "fixed steps")]
    same(longer, gains[0], "the gain with a fixed number of epochs")
    same(equally, gains[1], "the gain with a fixed number of steps")
    if share:
        same(share, 1 - gains[1] / gains[0], "the share of the gain", digits=0)


def subsets_task(r, task, encoder, text):
    strategies = options({c.about["strategy"] for c in plain(r, RANDOM)})
    for clause in clauses(text):
        if found := re.fullmatch(rf"random reaches (.+) \(trivial: ({NUMBER})\)", clause):
            for score, budget in whole(rf"({NUMBER}) with ([\d.]+ %)(?:, |$)", found[1]):
                claim = r.find(strategy=RANDOM, budget=budget, arm="epochs", frozen="full", base=TRIVIAL)
                same(score, claim.mean, describe(claim))
            same(found[2], claim.baseline, "the trivial score")
        elif found := re.fullmatch(
            r"(\d+) of (\d+) models are better than the trivial predictor"
            r"(?:, undecided: (.+?))?(?:, worse: (.+?))?(?:, no claim \(.+?\): (.+))?",
            clause,
        ):
            mine = plain(r, TRIVIAL)
            equal((int(found[1]), int(found[2])), (len(by_verdict(mine, "better")), len(mine)), "the numbers of models")
            for verdict, names in zip(("undecided", "worse", "no claim"), found.groups()[2:]):
                own = sorted(f"{c.about['strategy']} with {c.about['budget']}" for c in by_verdict(mine, verdict))
                equal(_models(names), own, f"the models that are {verdict}")
        elif found := re.fullmatch(r"fragile: (.+)", clause):
            read = whole(rf"(.+?) with ([\d.]+ %) by {MARGIN}(?:, |$)", found[1])
            mine = [c for c in plain(r, TRIVIAL) if c.fragile]
            equal(len(read), len(mine), "the number of fragile claims")
            for strategy, budget, *size in read:
                same_size(r.find(strategy=strategy, budget=budget, base=TRIVIAL, arm="epochs", frozen="full"), *size)
        elif found := re.fullmatch(rf"({strategies}) is (.+)", clause):
            _strategy(r, *found.groups())
        elif found := re.fullmatch(
            rf"from (.+?) to (.+?) random gains ({NUMBER}) points with a fixed number of epochs and ({NUMBER}) "
            r"with a fixed number of steps(?:, so that (\d+) % of the gain goes with longer training)?",
            clause,
        ):
            _gain(r, *found.groups())
        elif WORD.search(clause):
            raise Wrong(f"cannot be read: {clause!r}")
    told = {c.about["strategy"] for c in plain(r, RANDOM)}
    missing = [s for s in told if not re.search(rf"(?:; |: ){re.escape(s)} is ", text)]
    if missing:
        raise Wrong(f"nothing is said of {missing}")


def refused(r, run, accuracy, examples, constant, way):
    model = next(m for m in r.study.models if m.folder.name == run)
    rows = r.study.rows(model, "validation_matched")
    score, base = (
        (rows["label"] == rows["prediction"]).mean(),
        r.study.trivial(model, "validation_matched", "accuracy").mean(),
    )
    equal((accuracy, examples, constant), (f"{score:.3f}", f"{len(rows['label']):,}", f"{base:.3f}"), "the numbers")
    if way == "below" and score > base:
        raise Wrong("the accuracy is above that of a constant answer")


# languages


def languages_answer(r, method, encoder, trivial, k, n, items, more):
    mine = r.told = r.some(method=method, encoder=encoder)
    better = sorted(by_verdict(mine, "better"), key=lambda c: -c.value)
    equal((int(k), int(n)), (len(better), len(mine)), "the numbers of languages")
    equal(int(more or 0), max(0, len(better) - 3), "the number of others")
    same(trivial, np.mean([c.baseline for c in mine]), "the trivial score")
    read = whole(rf"(\w+) by {MARGIN}(?:, |$)", items) if items else []
    equal([language for language, *_ in read], [c.about["language"] for c in better[:3]], "the languages that lead")
    for (_, *size), claim in zip(read, better):
        same_size(claim, *size)


def languages_list(r, verdict, items):
    read = whole(rf"(\w+) ({NUMBER})(?:, |$)", items)
    mine = {c.about["language"]: c for c in by_verdict(r.told, verdict.lower())}
    equal(sorted(language for language, _ in read), sorted(mine), f"the languages that are {verdict.lower()}")
    for language, score in read:
        same(score, mine[language].mean, f"{language}: the score")


def languages_worse(r, items):
    read = whole(rf"(\w+) by {MARGIN}(?:, |$)", items)
    mine = {c.about["language"]: c for c in by_verdict(r.told, "worse")}
    equal(sorted(language for language, *_ in read), sorted(mine), "the languages that are worse")
    for language, *size in read:
        same_size(mine[language], *size)


_BY = r"[+−]?[\d,.]+ points \([^()]*\)"
_COUNTS = r"\d+ comparisons?: [^;]+"
SENTENCES = [
    (
        r"Better and worse: the difference, paired by seed and example, holds for other seeds and other examples "
        r"\(crossed random effects and a t-test over seeds, the larger p after Holm over the (\d+|one) comparisons? "
        r"of (.+?) below \.05\); intervals are 95 %, uncorrected\.",
        rule,
    ),
    (r"No claim for (\d+) without two seeds or without predictions\.", without_claim),
    (r"Fragile: the claim falls when the collapsed seeds are left out\.", fragile_means),
    (
        rf"(?:(.+) is better than full attention by ({_BY})"
        rf"|No attention is better than full attention, and (.+) is worse by ({_BY})"
        rf"|It is undecided with (.+?) whether any attention differs from full attention: (.+) does most, by ({_BY})"
        rf"); ({_COUNTS})\.",
        attention_answer,
    ),
    (
        rf"It is undecided with (.+?) whether (.+) is better than (.+): the difference is (.+); ({_COUNTS})\.",
        pretraining_undecided,
    ),
    (
        rf"(.+?) is ((?:better|worse|undecided) (?:than|against) .+), with (\d[^;]* seeds?); ({_COUNTS})\.",
        pretraining_decided,
    ),
    (
        r"It is undecided with (.+?) whether (.+) (?:are|is) better than (.+): the largest differences are (.+)\.",
        glue_undecided,
    ),
    (
        r"((?:.+?) (?:is|are) (?:better|worse) than .+ on \d+ of \d+ tasks, by up to .+?), with (\d[^;]* seeds?)"
        r"(?:; undecided: (.+))?\.",
        glue_decided,
    ),
    (r"(\S+(?: \(.+?\))? is better than the trivial baseline on .+)\.", glue_trivial),
    (
        rf"(Published BERT-base|The published value of the same encoder) is higher on (\d+) of (\d+) "
        rf"\(ours differs by ({NUMBER}) to ({NUMBER}) points\)\.",
        published,
    ),
    (r"(.+?): ((?:better than|worse than|undecided against|no claim on) .+)\.", method_verdict),
    (rf"(.+?): best (.+) with ({NUMBER}) \(trivial ({NUMBER})\); (.+)\.", attention_task),
    (
        r"A layer is better than the trivial predictor in (\d+) of (\d+) (tasks|pairs of task and encoder): "
        r"most in (.+?)(?: and (\d+) more)?\.",
        layers_answer,
    ),
    (
        rf"Fine-tuned against pretrained, ({_COUNTS}); "
        rf"(better|worse|undecided) most on (.+?) at layer (\d+) by ({_BY})\.",
        layers_gained,
    ),
    (
        rf"(?:(\w+) is better than a random choice by ({_BY})"
        rf"|No strategy is better than a random choice, and (\w+) is worse by ({_BY})) "
        r"with ([\d.]+ %) of (.+?); (\d+ comparisons? at equal size: [^;]+)\.",
        subsets_answer,
    ),
    (r"No strategy is better or worse than a random choice\.", subsets_none),
    (
        rf"(\d+ comparisons? at equal size: [^;]+); the largest is (\w+) with ([\d.]+ %), ({_BY}) (above|below)\.",
        subsets_largest,
    ),
    (r"(MNLI) \((\S+)\): (random reaches .+)\.", subsets_task),
    (
        r"HANS refused (\S+): accuracy (\d\.\d+) on ([\d,]+) examples of MNLI's dev set "
        r"where a constant answer gets (\d\.\d+): that is (near|below) chance, .+\.",
        refused,
    ),
    (
        rf"(.+), (\S+) is better than the trivial predictor \(({NUMBER})\) in (\d+) of (\d+) languages?"
        r"(?:: (.+?)(?: and (\d+) more)?)?\.",
        languages_answer,
    ),
    (r"(Undecided): (.+)\.", languages_list),
    (r"No claim \(.+?\): ()(.+)\.", lambda r, _, items: languages_list(r, "no claim", items)),
    (r"Worse: (.+)\.", languages_worse),
    (r"(.+) \((.+?), (\S+)\): (the .+ encoder is read best .+)\.", layers_task),
]


# what claims nothing: what the words and marks mean
DEFINITIONS = [
    re.escape(text)
    for text in (
        "Score × 100, mean ± standard deviation over seeds; ▲ ▼: better or worse than full attention "
        "(paired over seeds and texts, Holm over all rows).",
        "▲ better than random with the same budget and training, ▼ worse.",
        "Accuracy × 100 on XNLI's test sets, mean ± standard deviation over seeds; "
        "▲ better than the trivial predictor, ▼ worse.",
        "Distance: mean distance of the pool's examples to the nearest chosen one, less is better covered.",
        "Better than the trivial baseline: by the rule of all comparisons; "
        "those of the first paragraph are one family.",
        "2019), mean over seeds; unclear: the gain is within its spread over seeds; "
        "no gain: the whole mix scores no higher than the embeddings.",
        "Expected layer: where a mix of the states up to a layer gains its score (Tenney et al.",
    )
] + [r".*users reported lower scores \(gluon-nlp issue 1127\).*"]
