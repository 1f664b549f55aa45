"""Writes short texts about manners, feelings and sounds out of WordNet's data files, one a line: definitions, examples, and
adjectives, adverbs, nouns and verbs in a phrase about a voice.

Usage: wordnet_sentences.py FOLDER > sentences.txt    (FOLDER holds data.adj, data.adv, data.noun and data.verb)
"""

import re
import sys

# Lexicographer files (wnlex(5)): adjectives, participles, adverbs; nouns of communication and feeling; verbs of the body,
# communication and emotion.
FILES = {
    "adj": {"00", "44"},
    "adv": {"02"},
    "noun": {"10", "12"},
    "verb": {"29", "32", "37"},
}
LONGEST = 12  # words


def gerund(verb):
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        return verb[:-1] + "ing"
    if re.fullmatch(r"[^aeiou]*[aeiou][^aeiouwxy]", verb):
        return verb + verb[-1] + "ing"
    return verb + "ing"


def phrase(part, file, lemma):
    if part == "adj":
        return f"{'an' if lemma[0] in 'aeiou' else 'a'} {lemma} voice"
    if part == "adv":
        return f"someone speaking {lemma}"
    if part == "noun":
        return f"a voice full of {lemma}" if file == "12" else None
    return f"someone {gerund(lemma)}" if " " not in lemma else None


def texts(folder):
    for part, files in FILES.items():
        for line in open(f"{folder}/data.{part}", encoding="utf-8", errors="replace"):
            if line.startswith(" "):
                continue
            head, _, gloss = line.partition("|")
            fields = head.split()
            file, count = fields[1], int(fields[3], 16)
            if file not in files:
                continue
            for lemma in fields[4 : 4 + 2 * count : 2]:
                lemma = re.sub(r"\(.*\)", "", lemma).replace("_", " ")
                if re.fullmatch(r"[a-z][a-z' -]{2,24}", lemma):
                    yield phrase(part, file, lemma)
            examples = re.findall(r'"([^"]*)"', gloss)
            definition = re.split(r'"', gloss)[0]
            yield from re.split(r";", re.sub(r"\([^)]*\)", "", definition))
            yield from examples


def main():
    kept = set()
    for text in texts(sys.argv[1]):
        text = " ".join((text or "").split()).strip(" .,;:`'")
        if 2 <= len(text.split()) <= LONGEST and text.isascii():
            kept.add(text)
    print("\n".join(sorted(kept)))


if __name__ == "__main__":
    main()
