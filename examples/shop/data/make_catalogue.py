# SPDX-License-Identifier: Apache-2.0
"""Writes catalogue.sql, the shop's 200 products, so that they are what the example models know:

    python3 make_catalogue.py > catalogue.sql

The recommender learned from a simulated shop (examples/models/recommend/train.py): which of its 16 kinds each product
is of comes from the same seed here, and kinds that follow each other there go together here too. Ten of the kinds are
the classes of the photo classifier. Needs numpy.
"""
import numpy as np

SEED = 20240613  # of recommend/train.py
PRODUCTS, KINDS = 200, 16

# kind: other words for it, prices in euros from and to, types, what is said of them
CATALOGUE = [
    ("shirt", "shirts t-shirt tshirt top blouse clothes", 19, 69,
     ["Linen shirt", "Oxford shirt", "Flannel shirt", "Heavy T-shirt", "Camp-collar shirt", "Work shirt", "Striped shirt"],
     "Cut straight, washed once, and it only gets softer from here."),
    ("jacket", "jackets coat rain winter clothes", 89, 249,
     ["Rain jacket", "Field jacket", "Quilted jacket", "Wool coat", "Wind jacket", "Denim jacket", "Winter coat"],
     "Taped seams and deep pockets, for weather that changes its mind."),
    ("shoe", "shoes trainers boots sneakers", 59, 179,
     ["Canvas trainers", "Desert boots", "Running shoes", "Leather shoes", "Hiking boots", "Slip-on shoes", "Court trainers"],
     "Made to be resoled. Wear them in, not out."),
    ("bag", "bags backpack suitcase laptop tote", 39, 159,
     ["Roll-top backpack", "Tote bag", "Weekend bag", "Laptop bag", "Shoulder bag", "Day backpack", "Bike bag"],
     "Waxed canvas that keeps what you carry dry and gets better with scratches."),
    ("watch", "watches clock", 79, 329,
     ["Field watch", "Diver's watch", "Dress watch", "Pilot's watch", "Everyday watch", "Square watch", "Slim watch"],
     "Steel, sapphire, and a movement that anybody's watchmaker can repair."),
    ("phone", "phones mobile smartphone case charger", 199, 699,
     ["Pebble phone", "Slate phone", "Compact phone", "Outdoor phone", "Camera phone", "Simple phone", "Fold phone"],
     "Seven screws, no glue: the battery is yours to change."),
    ("headphones", "headphone earphones music", 49, 299,
     ["Studio headphones", "Travel headphones", "Open-back headphones", "Wired headphones", "Kids' headphones",
      "Over-ear headphones", "Light headphones"],
     "Quiet where you want quiet, with pads that can be replaced."),
    ("lamp", "lamps light desk floor", 35, 189,
     ["Desk lamp", "Floor lamp", "Bedside lamp", "Reading lamp", "Clip lamp", "Paper lamp", "Workshop lamp"],
     "Warm light, a switch you find in the dark, and a bulb that you can change."),
    ("chair", "chairs seat office stool", 69, 349,
     ["Kitchen chair", "Office chair", "Folding chair", "Reading chair", "Stacking chair", "Garden chair", "Stool"],
     "Solid ash, four honest joints, and a back that knows what a back is."),
    ("table", "tables desk furniture", 99, 649,
     ["Kitchen table", "Writing desk", "Side table", "Folding table", "Workbench", "Coffee table", "Garden table"],
     "Oiled oak. Rings and scratches can be sanded out; most people keep them."),
    ("book", "books novel cook reading", 12, 39,
     ["Cook book", "Novel", "Field guide", "Atlas", "Notebook", "Book of poems", "Picture book"],
     "Thread-sewn, so that it stays open on the page where you left it."),
    ("puzzle", "puzzles game board lego toy gift", 15, 59,
     ["1,000-piece puzzle", "Wooden puzzle", "Board game", "Card game", "Building set", "Puzzle for kids", "Brain teaser"],
     "For rainy Sundays. All pieces counted before it is packed."),
    ("mug", "mugs cup tea coffee kitchen", 9, 35,
     ["Stoneware mug", "Enamel mug", "Espresso cup", "Travel mug", "Tea mug", "Big breakfast mug", "Camp mug"],
     "Thrown by hand; no two are quite the same, and all of them like the dishwasher."),
    ("kettle", "kettles toaster blender coffee machine kitchen", 29, 149,
     ["Gooseneck kettle", "Whistling kettle", "Electric kettle", "Tea kettle", "Camp kettle", "Stovetop kettle",
      "Travel kettle"],
     "Boils a litre in four minutes, and pours exactly where you point it."),
    ("bottle", "bottles water flask", 14, 49,
     ["Water bottle", "Steel flask", "Glass bottle", "Insulated bottle", "Bike bottle", "Kids' bottle", "Trail bottle"],
     "Cold for a day, hot for half of one, and it does not leak in the bag."),
    ("hat", "hats cap beanie scarf gloves socks clothes", 15, 65,
     ["Wool beanie", "Sun hat", "Baseball cap", "Bucket hat", "Felt hat", "Ear-flap hat", "Sailor's cap"],
     "Warm ears, clear view."),
]
COLOURS = ["red", "blue", "black", "white", "green", "grey", "yellow", "brown", "pink", "purple", "beige", "navy"]


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def main():
    rng = np.random.default_rng(SEED)
    kinds = np.concatenate([np.arange(KINDS), rng.integers(KINDS, size=PRODUCTS - KINDS)])
    count = [0] * KINDS
    print("-- SPDX-License-Identifier: Apache-2.0")
    print("-- Written by make_catalogue.py. A catalogue that is there already stays as it is.")
    print("INSERT OR IGNORE INTO products (id, name, kind, colour, about, words, cents, sold) VALUES")
    rows = []
    for i, k in enumerate(kinds):
        kind, words, low, high, types, about = CATALOGUE[int(k)]
        n = count[int(k)]
        count[int(k)] += 1
        name = types[n % len(types)]
        colour = COLOURS[(n * 5 + int(k) * 3) % len(COLOURS)]
        price = low + (high - low) * ((n * 7 + int(k)) % 11) // 10
        # The simulated customers come for the first of a kind most often.
        sold = 12 * (100 // (1 + n)) + (i * 37) % 11
        row = [str(i + 1), quoted(name), quoted(kind), quoted(colour), quoted(about), quoted(words), str(price * 100 - 5),
               str(sold)]
        rows.append("(" + ", ".join(row) + ")")
    print(",\n".join(rows) + ";")


if __name__ == "__main__":
    main()
