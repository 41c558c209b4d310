"""Built-in task (a): slots to a sentence, in the manner of E2E, on our own words and templates."""

from airtune.data.builtin import slot_templates as wording
from airtune.data.builtin.draw import Draw
from airtune.data.builtin.words import AREAS, LANDMARKS, NAME_ADJECTIVES, NAME_NOUNS
from airtune.data.tasks import Example, Slot


def slots_example(draw: Draw) -> Example:
    """One venue: `name[...], kind[...], ...` and the two to four sentences that say it all.

    The label is the kind of venue. Each kind has openings and wordings of its own, so clients that
    hold different kinds really see different text.
    """
    kind = draw.pick(wording.KINDS)
    slots = _draw_slots(draw, kind)
    prompt = ", ".join(f"{slot.name}[{slot.value}]" for slot in slots)
    values = {slot.name: slot.value for slot in slots}
    return Example(prompt, _describe(draw, kind, values), kind.name, tuple(slots))


def _draw_slots(draw: Draw, kind: wording.Kind) -> list[Slot]:
    name = f"The {draw.pick(NAME_ADJECTIVES)} {draw.pick(NAME_NOUNS)}"
    slots = [_verbatim("name", name), _verbatim("kind", kind.name)]
    slots.append(_verbatim(kind.offer_slot, draw.pick(kind.offers)))
    if draw.chance(0.7):
        slots.append(_verbatim("area", draw.pick(AREAS)))
    if draw.chance(0.6):
        slots.append(_verbatim("near", draw.pick(LANDMARKS)))
    if draw.chance(0.7):
        price = draw.pick(tuple(wording.PRICE_WORDS))
        slots.append(Slot("price", price, wording.PRICE_WORDS[price]))
    if draw.chance(0.7):
        stars = str(draw.integer(1, 5))
        slots.append(Slot("rating", stars, (f"{stars} out of 5",)))
    if draw.chance(0.5):
        answer, other = draw.sample(("yes", "no"), 2)
        words = wording.CHILDREN_WORDS
        slots.append(Slot("children", answer, words[answer], words[other]))
    return slots


def _verbatim(name: str, value: str) -> Slot:
    return Slot(name, value, (value,))


def _describe(draw: Draw, kind: wording.Kind, values: dict[str, str]) -> str:
    opening = draw.pick(kind.openings).format(name=values["name"], where=_where(draw, values))
    offer = draw.pick(kind.offer_phrases).format(offer=values[kind.offer_slot])
    sentences = [opening, offer]
    if "price" in values:
        _append(draw, sentences, draw.pick(wording.PRICES[values["price"]]))
    if "rating" in values:
        sentences.append(draw.pick(wording.RATINGS).format(rating=values["rating"]))
    if "children" in values:
        _append(draw, sentences, draw.pick(wording.CHILDREN[values["children"]]))
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def _append(draw: Draw, sentences: list[str], clause: str) -> None:
    """A clause ends the sentence before it or stands alone."""
    if draw.chance(0.5):
        sentences[-1] += f", and {clause}"
    else:
        sentences.append(clause)


def _where(draw: Draw, values: dict[str, str]) -> str:
    if "area" in values and "near" in values:
        options: tuple[str, ...] = wording.WHERE_BOTH
    elif "area" in values:
        options = wording.WHERE_AREA
    elif "near" in values:
        options = wording.WHERE_NEAR
    else:
        options = wording.WHERE_NOWHERE
    return draw.pick(options).format(**{slot: values.get(slot, "") for slot in ("area", "near")})
