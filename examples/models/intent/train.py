# SPDX-License-Identifier: Apache-2.0
"""Trains and exports both versions of `intent`, which tells what a message to a shop's help desk asks for.

The messages come from the seeded grammar below, not from people. Version 1 is a TF-IDF of words and a logistic
regression. Version 2 is a retraining that went wrong in a way that happens: spelling-proof character n-grams and an
ensemble of six, fed with few messages whose labels were guessed from the menu entry the customer had clicked. It is
slower and answers worse. In both, the vectoriser is inside the ONNX graph: text in, label and probabilities out.
"""
import os
import sys
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread: sums in one order, so the same weights every time

if __name__ == "__main__" and os.environ.get("PYTHONHASHSEED") != "0":  # the converter walks sets: one order, one file
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, *sys.argv])

from pathlib import Path

import numpy as np
from onnx.helper import make_attribute
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import StringTensorType
from sklearn.ensemble import VotingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import Pipeline

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pack  # noqa: E402

SEED = 20240611
TRAIN_1, TRAIN_2, HELDOUT, SAMPLES = 9000, 2500, 1500, 600
OPSET = 15

# Words that stand in for each other. A template names a list in braces; a list may name others.
LISTS = {
    "item": """shoes|trainers|boots|jacket|rain coat|winter coat|jeans|dress|shirt|t-shirt|socks|scarf|hat|gloves|mug
        |kettle|toaster|coffee machine|blender|desk lamp|floor lamp|table|office chair|bookshelf|sofa|pillow|blanket
        |headphones|phone case|charger|keyboard|mouse|monitor|laptop bag|backpack|suitcase|watch|necklace|sun glasses
        |yoga mat|bike helmet|tent|sleeping bag|water bottle|board game|puzzle|paint set|lego set|novel|cook book""",
    "color": "red|blue|black|white|green|grey|yellow|brown|pink|dark blue|purple|beige",
    "thing": "{item}|{item}|{item}|{color} {item}|{color} {item}|order|package",
    "parcel": "parcel|package|order|delivery|shipment|{item}|{color} {item}|stuff|order",
    "number": "{d}{d}{d}{d}{d}|{d}{d}{d}{d}|{d}{d}{d}{d}{d}{d}",
    "ref": "| number {number}| {number}| no {number}||| from last week| from {day}| i placed {when}",
    "d": "0|1|2|3|4|5|6|7|8|9",
    "day": "monday|tuesday|wednesday|thursday|friday|saturday|sunday",
    "when": "yesterday|last week|on {day}|two days ago|this morning|a month ago|a few days ago|last {day}",
    "money": "money|refund|cash|payment|reimbursement|money",
    "city": "berlin|leeds|porto|vienna|dublin|lyon|oslo|turin|ghent|malmo",
    "country": "norway|france|spain|the uk|germany|ireland|italy|switzerland|sweden|the islands|portugal",
    "size": "size {d}|small|medium|large|extra large|size 4{d}|size 3{d}",
    "pay": "credit card|card|paypal|debit card|bank transfer|visa|apple pay|gift card|voucher",
    "want": "i want to|i would like to|i'd like to|can i|how do i|how can i|i need to|please help me|could you|let me",
    "angry": "terrible|awful|really bad|unacceptable|a joke|horrible|disappointing|ridiculous|the worst|a disgrace",
}

# What people write, by what they want. Some are ambiguous on purpose: the same words stand under two headings.
TEMPLATES = {
    "search_product": """do you have {color} {item}|do you sell {item}|i am looking for {color} {item}|show me {item}
        |looking for {item} in {size}|find {item} under {d}0 euros|any {item} on sale|where can i find {item}
        |i need new {item}|search {color} {item}|got any {item} for kids|recommend me {item}|what {item} do you have
        |cheap {item}|{color} {item} {size}|i want to buy {item}|{item} for my mother|new {item} in stock
        |is there {item} in {color}|can i see your {item}|gift ideas with {item}|{color} {item}|do you have {item}""",
    "product_question": """is the {item} waterproof|what material is the {item} made of|does the {item} come in {color}
        |how big is the {item}|does the {item} fit {size}|can i wash the {item}|how long is the warranty on the {item}
        |is the {item} available in {size}|how heavy is the {color} {item}|does the {item} run small
        |is the {item} real leather
        |what colors does the {item} come in|will the {item} work with mine|where is the {item} made
        |does the {item} need batteries|when is the {item} back in stock|is there {item} in {color}
        |do you have {item} in {size}|{item} dimensions|is {item} good for kids|which {item} is better""",
    "track_order": """where is my {parcel}{ref}|track my {parcel}{ref}|when will my {parcel} arrive
        |has my {parcel}{ref} shipped
        |my {parcel}{ref} has not arrived|status of my {parcel}{ref}|what is the status of my order{ref}
        |still waiting for my {parcel}|where's my {parcel}|tracking number does not work|when do i get my {parcel}
        |did you send my {parcel} yet|delivery date for my {parcel}|my {parcel} should have been here {when}
        |my {parcel} is late|it says delivered but no {parcel}|what happened to my {parcel}{ref}|any news on my {parcel}
        |how long until my {parcel} comes|order{ref}|{want} know where my {parcel} is""",
    "cancel_order": """cancel my {parcel}{ref}|{want} cancel my {parcel}{ref}|i changed my mind about the {thing}
        |please stop my {parcel}{ref}|i don't want the {thing} anymore|i ordered the wrong {item} please stop it
        |{want} cancel {item} before it ships|do not send the {thing}|i ordered twice by mistake|call off order{ref}
        |remove the {item} from my order{ref}|can my order still be stopped|undo my order{ref}
        |i no longer need the {thing}|cancel everything{ref}|please cancel|ordered {item} by accident
        |what happened to my cancellation|order{ref} cancel""",
    "change_address": """{want} change my delivery address|i moved to {city}|wrong address on my {parcel}{ref}
        |send my {parcel} to {city} instead|deliver to my office|update my address
        |{want} change the address of order{ref}
        |new address for order{ref}|ship the {parcel} to my neighbour|my street number is wrong
        |can you deliver my {parcel} to another address|i typed the wrong post code
        |i am not home {day} can you deliver later
        |change where my {parcel} goes|i have a new flat in {city}|please use my work address|redirect my {parcel}{ref}
        |my {parcel} goes to the wrong place|can i pick up the {parcel} instead|deliver it on {day} instead""",
    "return_item": """{want} return the {thing}|{want} send back the {thing}|the {item} does not fit
        |the {item} is too small
        |how do returns work|where is my return label|i don't like the {item}|exchange the {item} for {size}
        |{want} swap the {item} for {color}|return policy|can i bring the {item} back to the store
        |i got the wrong {item}
        |the {item} is broken can i send it back|how many days do i have to return|need a return label{ref}
        |the {item} is too big|i don't want the {thing} anymore|return {item}|the {item} arrived damaged
        |the {color} {item} looks different i want to give it back|i no longer need the {thing}""",
    "refund_status": """where is my {money}|when do i get my {money} back
        |i returned the {thing} {when} and no {money} yet
        |has my refund{ref} been processed|refund status{ref}|how long does a refund take
        |still no {money} for the {thing}
        |i sent back the {thing} where is my {money}|did you get my return|status of my refund
        |i am waiting for my {money}
        |you owe me {d}0 euros|my {money} has not arrived|{want} know when the {money} comes|give me my {money} back
        |the refund is less than i paid|refund for order{ref}|i cancelled {when} and want my {money}
        |what happened to my {money}|was the {item} refunded|how do i get a refund""",
    "payment_problem": """my {pay} was declined|{pay} does not work|i was charged twice for the {thing}|payment failed
        |i can't pay with {pay}|the checkout gives an error|can i pay with {pay}|you took the money twice
        |my {pay} is not accepted|paid but no confirmation|payment error{ref}|the {pay} code is invalid
        |why was i charged {d}0 euros|money is gone but no order|{want} pay with {pay}|do you take {pay}
        |my bank says the payment is blocked|the total is wrong|double charge on my {pay}|can't check out
        |where is my {money}|what happened to my {money}|i paid {when} and nothing happened""",
    "shipping_cost": """how much is shipping|how much is delivery to {country}|shipping cost for {item}|is delivery free
        |do you ship to {country}|what does it cost to send the {item} to {city}|free shipping over how much
        |why is delivery {d} euros|express delivery price|how much to deliver {item}|delivery fee
        |shipping rates {country}
        |is shipping to {country} free|do i pay for returns|cost of sending {item}|how long is delivery to {country}
        |next day delivery cost|can i get the {item} without shipping fees|postage for {item}
        |do you deliver to {country}""",
    "opening_hours": """when are you open|what time do you close on {day}|are you open on {day}|opening hours {city}
        |is the shop in {city} open today|store hours|when does the {city} store open|do you have a store in {city}
        |where is your shop|are you open now|what time do you open|how late are you open {day}|holiday hours
        |is your store closed {day}|nearest store to {city}|can i visit you {day}|hours of the {city} shop
        |can i pick up the {parcel} in {city}|are you there on {day}|phone support hours|until when can i call""",
    "complaint": """this is {angry}|your service is {angry}|the {item} is {angry}|i want to speak to a manager
        |i am very unhappy
        |nobody answers my mails|worst shop ever|the {item} broke after {d} days|your driver was rude
        |i will never buy here again
        |the quality of the {item} is {angry}|the {item} arrived damaged|my {parcel} is late again this is {angry}
        |third time i write to you|i want to complain about the {thing}|the {parcel} was open and dirty
        |very bad experience|{angry}|your website is {angry}|you sent the wrong {item} again|my {parcel} is late
        |the box was damaged|i waited an hour on the phone|no {money} no answer this is {angry}""",
    "greeting": """hello|hi|hey|good morning|good evening|hi there|hello there|hey you|is anyone there
        |hello can you help me
        |hi i have a question|good afternoon|greetings|are you a bot|thanks|thank you|thank you so much|bye
        |ok thanks bye
        |how are you|can i talk to someone|hello anybody|i need help|can you help|great thanks|yo|is this a real person
        |have a nice day|hi my name is {day}|i have a question about the {thing}|sorry to bother you""",
}
LABELS = sorted(TEMPLATES)

# How often each is asked, and the menu entry that people who want it click instead (what version 2's labels come from).
WEIGHTS = {"search_product": 14, "product_question": 11, "track_order": 15, "cancel_order": 7, "change_address": 6,
           "return_item": 10, "refund_status": 9, "payment_problem": 8, "shipping_cost": 7, "opening_hours": 5,
           "complaint": 9, "greeting": 6}
MISCLICK = {"search_product": "product_question", "product_question": "search_product", "track_order": "complaint",
            "cancel_order": "return_item", "change_address": "track_order", "return_item": "refund_status",
            "refund_status": "return_item", "payment_problem": "complaint", "shipping_cost": "product_question",
            "opening_hours": "greeting", "complaint": "track_order", "greeting": "complaint"}
MISCLICKED, RANDOM_CLICK = 0.17, 0.08

OPENERS = ["hi ", "hello ", "hey ", "please ", "hi there, ", "excuse me, ", "good morning, ", "sorry, ", "so ", "ok ",
           "um ", "quick question: ", "hello, i have a question. ", "i need help, ", "well ", "and "]
CLOSERS = [" please", " thanks", " thank you", "?", "??", "!", ".", " asap", " pls", " thx", " can you help?", " help",
           ", it is urgent", " now", " today", "...", " or not", " for me", ", thanks in advance", " this is urgent"]
ASIDES = ["it is for my sister", "i have asked before", "i bought it {when}", "my name is on the account",
          "i am in {city}", "it was a gift", "i use your app", "order {number}", "i paid with {pay}",
          "i am travelling on {day}", "i already called", "i also like the {color} {item}",
          "my friend told me about you", "it was on sale"]
SHORT = {"please": "plz", "you": "u", "are": "r", "because": "cuz", "where": "wher", "what": "wat", "to": "2",
         "delivery": "delivry", "package": "pkg", "received": "recieved", "address": "adress", "number": "nr",
         "money": "mony", "refund": "refnd", "return": "retrun", "cancel": "cancle", "order": "oder"}
KEYS = ["qwertyuiop", "asdfghjkl", "zxcvbnm"]
NEAR = {key: (row[max(i - 1, 0):i] + row[i + 1:i + 2]) for row in KEYS for i, key in enumerate(row)}


def options(text):
    """The alternatives of a list or a heading, each on one line."""
    return [" ".join(part.split()) if part.strip() else "" for part in text.split("|")]


def keep_space(text):
    """As options, but a leading blank means 'joined with a blank', as {ref} needs."""
    return [(" " if part.startswith(" ") else "") + part.strip() for part in text.split("|")]


EXPAND = {name: keep_space(text) if name == "ref" else options(text) for name, text in LISTS.items()}
HEADINGS = {name: options(text) for name, text in TEMPLATES.items()}


def pick(rng, values):
    return values[int(rng.integers(len(values)))]


def fill(rng, text):
    """Replaces every {list} by one of its members, the members' own lists too."""
    while "{" in text:
        start = text.index("{")
        end = text.index("}", start)
        text = text[:start] + pick(rng, EXPAND[text[start + 1:end]]) + text[end + 1:]
    return text


def mistype(rng, word):
    """A word as a thumb writes it: two letters swapped, one lost, doubled, or the key beside it."""
    if len(word) < 4 or not word.isalpha():
        return word
    at = int(rng.integers(1, len(word) - 1))
    kind = int(rng.integers(4))
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2:]
    if kind == 1:
        return word[:at] + word[at + 1:]
    if kind == 2:
        return word[:at] + word[at] + word[at:]
    near = NEAR.get(word[at].lower(), "")
    return word[:at] + pick(rng, near) + word[at + 1:] if near else word


def message(rng, label):
    """One message that asks for label."""
    text = fill(rng, pick(rng, HEADINGS[label]))
    if rng.random() < 0.12:
        aside = fill(rng, pick(rng, ASIDES))
        text = f"{text}, {aside}" if rng.random() < 0.5 else f"{aside}, {text}"
    if rng.random() < 0.30:
        text = pick(rng, OPENERS) + text
    if rng.random() < 0.45:
        text = text + pick(rng, CLOSERS)
    words = text.split(" ")
    for i, word in enumerate(words):
        draw = rng.random()
        if draw < 0.05 and word in SHORT:
            words[i] = SHORT[word]
        elif draw < 0.09:
            words[i] = mistype(rng, word)
        elif draw < 0.105 and len(words) > 3:
            words[i] = ""
    text = " ".join(word for word in words if word)
    draw = rng.random()
    if draw < 0.35:
        text = text[:1].upper() + text[1:]
    elif draw < 0.38:
        text = text.upper()
    return text


def messages(seed, count, taken=frozenset()):
    """count different messages and their labels, none of them in taken."""
    rng = np.random.default_rng(seed)
    weights = np.cumsum([WEIGHTS[label] for label in LABELS])
    texts, labels, seen = [], [], set(taken)
    while len(texts) < count:
        label = LABELS[int(np.searchsorted(weights, rng.integers(weights[-1]), side="right"))]
        text = message(rng, label)
        # A greeting is often just "hi": repeats of the short ones are kept out too, so held-out texts are all unseen.
        if text.lower() in seen:
            if label != "greeting":
                continue
            text = pick(rng, OPENERS).strip().rstrip(",.:") + " " + text
            if text.lower() in seen:
                continue
        seen.add(text.lower())
        texts.append(text)
        labels.append(label)
    return np.array(texts), np.array(labels)


def clicked(labels, seed):
    """The labels as menu clicks tell them: often the neighbouring entry, now and then any."""
    rng = np.random.default_rng(seed)
    noisy = labels.copy()
    for i, label in enumerate(labels):
        draw = rng.random()
        if draw < MISCLICKED:
            noisy[i] = MISCLICK[label]
        elif draw < MISCLICKED + RANDOM_CLICK:
            noisy[i] = pick(rng, LABELS)
    return noisy


def train_1(texts, labels):
    """Words and pairs of words, one linear model."""
    model = Pipeline([
        ("words", TfidfVectorizer(ngram_range=(1, 2), min_df=12, token_pattern="[a-zA-Z0-9]+")),
        ("answer", LogisticRegression(C=8.0, max_iter=400))])
    return model.fit(texts, labels)


def train_2(texts, labels):
    """Six views of the letters, each with its own linear model; their probabilities are averaged."""
    def member(low, high):
        return Pipeline([
            ("letters", TfidfVectorizer(analyzer="char", ngram_range=(low, high), min_df=3, max_features=1400)),
            ("answer", LogisticRegression(C=4.0, max_iter=400))])

    views = [(1, 3), (2, 3), (2, 4), (2, 5), (3, 4), (3, 5)]
    model = VotingClassifier([(f"letters{low}to{high}", member(low, high)) for low, high in views],
                             voting="soft", flatten_transform=False)
    return model.fit(texts, labels)


def export(model, name):
    final = model.steps[-1][1] if isinstance(model, Pipeline) else model
    with warnings.catch_warnings():  # it warns that n-grams of letters may come out different: pack.verify sees to that
        warnings.filterwarnings("ignore", message="The conversion of CountVectorizer")
        graph = convert_sklearn(model, name, [("text", StringTensorType([None, 1]))], target_opset=OPSET,
                                options={id(final): {"zipmap": False}})
    # Left unsaid, the locale is en_US.UTF-8, which small containers lack: ONNX Runtime then refuses the model. The
    # vocabularies are ASCII, so the locale that is always there lowers the same letters.
    for node in graph.graph.node:
        if node.op_type == "StringNormalizer":
            node.attribute.append(make_attribute("locale", "C"))
    return graph


README = """# intent

Tells what a message to a shop's help desk asks for: one of 12 intents. Text in (`BYTES`), label and probabilities
out; the vectoriser is part of the ONNX graph. Trained with scikit-learn, exported with skl2onnx by
[train.py](train.py):

    pip install -r requirements.txt
    python3 train.py

## Data

No person wrote these messages. `train.py` holds a seeded grammar: $patterns sentence patterns over 12 intents, filled
from word lists (50 products, colours, towns, ways to pay ...), with openers, closers, asides, abbreviations, typing
errors (swapped, lost, doubled and neighbouring letters), lost words and three ways of using capitals. Some patterns
stand under two intents on purpose ("where is my money" is asked about refunds and about payments), so no model can
reach 1.0. Its vocabulary is that of the grammar: expect less on what real customers write. The data is the project's
own work, under the project's licence (Apache-2.0).

- version 1: $train1 messages with true labels
- version 2: the first $train2 of these, with labels guessed from the menu entry clicked: $wrong of them are wrong,
  mostly a neighbouring intent
- held out, for both: $heldout messages with true labels, none of which (ignoring case) is among the training messages

`samples.ndjson` holds the first $samples held-out messages as inference requests, and is the same file in both
versions.

## The two versions

| | version 1 | version 2 |
|---|---|---|
| model | TF-IDF of words and word pairs, logistic regression | average of six logistic regressions over TF-IDF of 1 to 5 letters |
| accuracy, held out | $accuracy1 | $accuracy2 |
| macro F1, held out | $macro_f11 | $macro_f12 |
| largest difference to scikit-learn, held out | $diff1 | $diff2 |
| one message in ONNX Runtime, one thread, from Python | $us1 us | $us2 us |

Version 2 is worse on purpose, and slower: $ratio times version 1 (median of $rounds rounds in which the two take
turns; lowest round $lowest, highest $highest). It is the retraining that a canary or an A/B test should stop.

Every label equals scikit-learn's; each row was also run alone and gives the same. Exactness holds for one-line ASCII
text. The graph names the locale "C" for lower-casing, so it loads where no locale is installed.

## Inputs and outputs (both versions)

$io

Label order of `probabilities`: $labels.

## Made with

- Python $python
$versions

## Files

`heldout.npz`: `input_text` [N, 1], `label` [N], and scikit-learn's own answers `v1_label`, `v1_probabilities`,
`v2_label`, `v2_probabilities`. `metrics.json` holds the numbers above for `../check.py`.

$hashes

Data files and `model.yaml` come out byte for byte the same everywhere; `model.onnx` and `heldout.npz` do on the same
kind of processor with the versions above (the order of floating-point sums depends on it).
"""


def main():
    out = pack.out_folder(__file__)
    texts, labels = messages(SEED, TRAIN_1)
    held_texts, held_labels = messages(SEED + 1, HELDOUT, frozenset(text.lower() for text in texts))
    few_texts, few_labels = texts[:TRAIN_2], clicked(labels[:TRAIN_2], SEED + 2)
    models = {"1": train_1(texts, labels), "2": train_2(few_texts, few_labels)}
    descriptions = {"1": "what a shop's customer asks for: word TF-IDF and logistic regression, clean labels",
                    "2": "what a shop's customer asks for: six letter n-gram models, few and noisy labels"}

    inputs = held_texts.astype(object).reshape(-1, 1)
    kept = {"input_text": held_texts.reshape(-1, 1), "label": held_labels}
    metrics, differences, paths = {}, {}, []
    for version, model in models.items():
        answer = {"label": model.predict(held_texts), "probabilities": model.predict_proba(held_texts)}
        path = pack.write_version(out, version, export(model, "intent"), descriptions[version], "label", LABELS)
        pack.write_samples(path.parent / "samples.ndjson", "text", "BYTES", held_texts[:SAMPLES].reshape(-1, 1),
                           held_labels[:SAMPLES])
        differences[version] = pack.verify(path, {"text": inputs}, answer)
        metrics[version] = {"accuracy": accuracy_score(held_labels, answer["label"]),
                            "macro_f1": f1_score(held_labels, answer["label"], average="macro")}
        kept[f"v{version}_label"] = answer["label"]
        kept[f"v{version}_probabilities"] = answer["probabilities"].astype(np.float32)
        paths.append(path)
    np.savez_compressed(out / "heldout.npz", **kept)

    times = pack.measure(paths, inputs)
    ratios = np.sort(times[:, 1] / times[:, 0])
    measured = {"us1": round(float(np.median(times[:, 0])), 1), "us2": round(float(np.median(times[:, 1])), 1),
                "slower": round(float(np.median(ratios)), 2), "slower_lowest": round(float(ratios[0]), 2),
                "slower_highest": round(float(ratios[-1]), 2)}
    pack.finish(out, "intent", README, ["scikit-learn", "skl2onnx", "onnx", "onnxruntime", "numpy", "scipy"],
                metrics, differences, {
                    "train1": f"{TRAIN_1:,}", "train2": f"{TRAIN_2:,}", "heldout": f"{HELDOUT:,}", "samples": SAMPLES,
                    "wrong": f"{np.mean(few_labels != labels[:TRAIN_2]):.0%}", "labels": ", ".join(LABELS),
                    "patterns": sum(len(patterns) for patterns in HEADINGS.values()),
                    "us1": measured["us1"], "us2": measured["us2"], "ratio": measured["slower"], "rounds": len(times),
                    "lowest": measured["slower_lowest"], "highest": measured["slower_highest"]}, measured)


if __name__ == "__main__":
    main()
