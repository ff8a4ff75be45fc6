"""What the users of the small world ask: templates and what fills them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "chat": (
        "{hello} How are you doing {day}?",
        "{hello} I am {mood} {day}. Cheer me up, will you?",
        "{hello} My {relative} is coming to visit and we never know what to talk about. Any ideas?",
        "what should I have for dinner? I have {food} and {food}",
        "Tell me a joke about {animal}s.",
        "I had a row with my {relative} about the {thing}. Was I wrong?",
        "Do you ever get bored? I do, I have been waiting for the {thing} for an hour.",
        "Salut ! Comment ça va {jour} ? Je m'ennuie un peu.",
        "Hallo, mir ist gerade langweilig. Erzähl mir etwas Lustiges über {animal}s!",
        "hola, ¿qué tal? cuéntame algo divertido, por favor",
    ),
    "code": (
        "Write a {language} function that {task}.",
        "Write a {language} function that {task}. It must handle {case}, and please add a unit test.",
        "My {language} program fails with `{error}` when I {action}. Why?\n\n```\n{snippet}\n```",
        "Refactor this to be more readable:\n\n```\n{snippet}\n```",
        "What is the time complexity of this?\n\n```\n{snippet}\n```",
        "How do I {action} in {language} without a third-party package?",
        "Explain the difference between {concept} and {concept} in {language} with a short example.",
        "Write a SQL query that returns the {n} {thing}s with the most orders per month.",
        "Schreibe eine Funktion in {language}, die {case} abfängt und einen Fehler ausgibt.",
    ),
    "maths": (
        "What is {n} * {n} + {n}?",
        "Solve for x: {n}x + {n} = {n}",
        "Find the derivative of f(x) = {n}x^{k} - {n}x + {n}.",
        "A shop sells {n} {thing}s at {n} dollars each and gives {k} percent off. How much in all?",
        "A train leaves at {k}:00 at {n} km/h, one at {k}:30 at {n} km/h. When do they meet?",
        "Prove that the sum of two {parity} numbers is even.",
        "How many ways are there to choose {k} {thing}s out of {n}? Show your steps.",
        "Compute the integral of x^{k} from 0 to {n}, step by step.",
        "Un rectangle mesure {n} cm sur {n} cm. Quelle est sa surface, et sa diagonale ?",
    ),
    "translation": (
        "Translate into {tongue}: {sentence}",
        "How do you say '{phrase}' in {tongue}?",
        "Please translate this e-mail into {tongue}, in a polite tone:\n\n{sentence} {sentence}",
        "Übersetze ins Englische: {german}",
        "Traduis en anglais : {french}",
        "Traduce al inglés: {spanish}",
        "次の文を英語に翻訳してください: {japanese}",
        "Переведи на английский: {russian}",
    ),
    "summary": (
        "Summarise the following text in {k} sentences:\n\n{paragraph} {paragraph}",
        "Give me the key points of this as bullets:\n\n{paragraph} {paragraph} {paragraph}",
        "TL;DR please:\n{paragraph} {paragraph}",
        "Shorten this to one line for a newsletter: {paragraph}",
        "What are the action items in these meeting notes?\n\n{sentence} {sentence} {paragraph}",
        "Fasse den folgenden Text kurz zusammen:\n\n{paragraph} {paragraph}",
    ),
    "facts": (
        "What is the capital of {country}?",
        "Who invented the {invention}, and when?",
        "How tall is the highest mountain in {country}?",
        "Which year did {country} join the United Nations?",
        "What do {animal}s eat in winter?",
        "Is it true that the {invention} was first built in {country}?",
        "When was the {invention} first sold in {country}, and by whom?",
        "¿Cuál es la capital de {pais}?",
        "Quelle est la population du {pays} ?",
    ),
    "writing": (
        "Write a short poem about a {animal} and a {thing}.",
        "Write a {tone} e-mail to my {relative} to say that the {thing} will be late.",
        "Write the opening of a detective story set in {country}. The clue is a {thing}.",
        "Draft a product description for a {thing}. The tone should be {tone}, about {n} words.",
        "I need a toast for my {relative}'s wedding, {tone} but not too long.",
        "Rewrite this so that it sounds {tone}: {sentence}",
        "Schreibe ein kurzes Gedicht über einen {animal}, bitte {tone}.",
    ),
}

FILLERS: Mapping[str, tuple[str, ...]] = {
    "hello": ("Hi!", "hey,", "Hello there.", "Good morning!", "hiya", "Good evening,"),
    "day": ("today", "this morning", "tonight", "on this rainy day", "so far"),
    "jour": ("aujourd'hui", "ce soir", "ce matin"),
    "mood": ("a bit sad", "so tired", "bored", "nervous about tomorrow", "in a great mood"),
    "relative": ("mother", "brother", "boss", "neighbour", "best friend", "uncle"),
    "food": ("eggs", "rice", "two tomatoes", "some old bread", "tofu", "a pumpkin"),
    "animal": ("cat", "penguin", "hedgehog", "bear", "horse", "sparrow"),
    "thing": ("bicycle", "parcel", "lamp", "kettle", "red umbrella", "ticket", "notebook"),
    "language": ("Python", "JavaScript", "Rust", "Go", "Java", "C++"),
    "task": (
        "reverses a linked list",
        "finds the longest common prefix of a list of strings",
        "parses an ISO 8601 date",
        "merges two sorted arrays",
        "counts the words of a file",
        "caches the results of another function",
    ),
    "case": ("empty input", "Unicode", "negative numbers", "very large files", "duplicate keys"),
    "error": (
        "IndexError: list index out of range",
        "TypeError: undefined is not a function",
        "segmentation fault (core dumped)",
        "cannot borrow `x` as mutable",
        "NullPointerException",
    ),
    "action": (
        "read a JSON file",
        "sort the keys",
        "open a socket",
        "run the tests",
        "send a POST request",
    ),
    "snippet": (
        "for i in range(len(xs)):\n    for j in range(len(xs)):\n        n += xs[i] == xs[j + 1]",
        "const total = items.map(i => i.price).reduce((a, b) => a + b);",
        "def f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)",
        "let mut v = vec![1, 2, 3];\nlet first = &v[0];\nv.push(4);",
        "while (node != null) { node = node.next; count++; }",
    ),
    "concept": ("a list", "a generator", "an interface", "a closure", "a thread", "a coroutine"),
    "parity": ("odd", "even"),
    "tongue": ("French", "German", "Spanish", "Japanese", "Polish", "Arabic"),
    "phrase": ("good luck", "see you tomorrow", "where is the station", "the bill, please"),
    "sentence": (
        "The delivery has been delayed by a week because of the storm.",
        "We would like to invite you to our office next month.",
        "Could you please send me the invoice again?",
        "Anna will write to the supplier and ask for a new offer by Friday.",
        "I am sorry that I could not come to the meeting yesterday.",
        "The new version will be available to all customers from Monday.",
    ),
    "german": (
        "Der Zug nach Hamburg fährt heute von Gleis sieben ab.",
        "Könnten Sie mir bitte die Rechnung noch einmal schicken?",
        "Morgen soll es den ganzen Tag regnen.",
    ),
    "french": (
        "Le musée est fermé le mardi, mais le jardin reste ouvert.",
        "Je voudrais réserver une table pour quatre personnes.",
        "Nous avons bien reçu votre lettre du 3 mars.",
    ),
    "spanish": (
        "El paquete llegará mañana por la tarde.",
        "¿Podría decirme dónde está la farmacia más cercana?",
        "Muchas gracias por su ayuda de ayer.",
    ),
    "japanese": (
        "明日の会議は十時に始まります。",
        "駅までどのくらいかかりますか。",
        "ご連絡ありがとうございます。",
    ),
    "russian": (
        "Поезд опаздывает на двадцать минут.",
        "Где находится ближайшая аптека?",
        "Спасибо за помощь.",
    ),
    "paragraph": (
        "The city council voted on Tuesday to close the old bridge to cars. Cyclists and "
        "pedestrians may still use it, and buses will take a detour of about ten minutes until "
        "the works are done.",
        "Sales rose by eight percent in the third quarter, mostly because of the new "
        "subscription. Costs grew faster than planned, since two warehouses had to be rented at "
        "short notice.",
        "Researchers followed four hundred volunteers over six years. Those who walked for half "
        "an hour a day slept longer, but the effect was small and vanished in those older than "
        "seventy.",
        "The museum shows the work of three painters who shared one house by the sea. Their "
        "letters, read aloud in the last room, tell of cold winters, little money and a great "
        "deal of laughter.",
        "Since the library opened its doors on Sundays, the number of visitors has doubled. The "
        "staff ask for two more posts; the mayor wants to wait for the budget talks in autumn.",
    ),
    "country": ("Portugal", "Kenya", "Vietnam", "Peru", "Norway", "Mongolia", "Jordan"),
    "pais": ("Noruega", "Portugal", "Kenia", "Perú", "Mongolia"),
    "pays": ("Portugal", "Kenya", "Vietnam", "Pérou", "Japon"),
    "invention": ("telephone", "zip fastener", "bicycle", "microscope", "steam engine", "ballpoint pen"),
    "tone": ("friendly", "formal", "funny", "heartfelt", "sober"),
}

OPENINGS = (
    "",
    "",
    "",
    "",
    "Quick question: ",
    "Please help me. ",
    "ok next one. ",
    "hey, ",
    "I need this soon. ",
)
ENDINGS = (
    "",
    "",
    "",
    "",
    " Thanks!",
    " thx",
    " Please be brief.",
    " Take your time.",
    " Thank you in advance.",
)
SLOT = re.compile(r"\{(\w+)\}")


def write_prompt(kind: str, rng: np.random.Generator) -> str:
    """Return a prompt of that kind: a template, its slots filled.

    Examples
    --------
    >>> write_prompt("facts", np.random.default_rng(0))
    'Please help me. ¿Cuál es la capital de Portugal? Thanks!'
    """
    templates = TEMPLATES[kind]
    template = templates[rng.integers(len(templates))]
    opening, ending = OPENINGS[rng.integers(len(OPENINGS))], ENDINGS[rng.integers(len(ENDINGS))]
    return opening + SLOT.sub(lambda slot: _filler(slot[1], rng), template) + ending


def _filler(name: str, rng: np.random.Generator) -> str:
    if name == "n":
        return str(rng.integers(11, 400))
    if name == "k":
        return str(rng.integers(2, 10))
    choices = FILLERS[name]
    return choices[rng.integers(len(choices))]
