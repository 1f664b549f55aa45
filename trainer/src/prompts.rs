//! Descriptions of speaking styles: phrases put into templates. Each style has phrases for training and other ones that
//! are held out, and so have the templates; a held-out prompt shares neither with training.
//! Knows words only, no tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::sides::Halves;
pub use crate::sides::Side;
use crate::wording::Wordings;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Phrases {
    #[serde(default)]
    adjective: Vec<String>,
    #[serde(default)]
    gerund: Vec<String>,
    #[serde(default)]
    noun: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Style {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    like: Vec<String>,
    train: Phrases,
    heldout: Phrases,
}

#[derive(Deserialize)]
struct File {
    templates: BTreeMap<String, Halves>,
    style: Vec<Style>,
    #[serde(default)]
    wordings: Wordings,
    #[serde(default)]
    attributes: BTreeMap<String, toml::Value>,
}

/// The prompt file.
pub struct Prompts {
    /// What is done to descriptions when they are asked for.
    pub wordings: Wordings,
    templates: BTreeMap<String, Halves>,
    styles: Vec<Style>,
    labels: BTreeMap<String, usize>,
    attributes: BTreeMap<String, BTreeMap<String, Halves>>,
    attribute_templates: Halves,
}

/// Prompts that one template gives for two styles at once.
const MOST_PAIRS: usize = 64;

const FORMS: [&str; 3] = ["adjective", "gerund", "noun"];

impl Prompts {
    /// Reads and checks the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in the prompt file {}", path.display()))
    }

    /// See [`Prompts::read`].
    pub fn parse(text: &str) -> Result<Self> {
        let mut file: File = toml::from_str(text)?;
        for form in FORMS.iter().chain(&["pair"]) {
            ensure!(file.templates.contains_key(*form), "there are no templates.{form}");
        }
        let mut labels = BTreeMap::new();
        for (n, style) in file.style.iter().enumerate() {
            for label in style.aliases.iter().chain([&style.name]) {
                ensure!(labels.insert(label.to_lowercase(), n).is_none(), "two styles claim the label {label:?}");
            }
        }
        for style in &file.style {
            let unknown = style.like.iter().find(|l| !file.style.iter().any(|s| s.name == **l));
            ensure!(unknown.is_none(), "{:?} is said to be like {:?}, which is no style", style.name, unknown);
        }
        let attribute_templates =
            file.attributes.remove("templates").map(toml::Value::try_into::<Halves>).transpose()?.unwrap_or_default();
        let attributes = file.attributes.into_iter().map(|(k, v)| Ok((k, v.try_into()?))).collect::<Result<_>>()?;
        let (templates, wordings) = (file.templates, file.wordings);
        Ok(Self { wordings, templates, styles: file.style, labels, attributes, attribute_templates })
    }

    /// Names of all styles.
    pub fn styles(&self) -> impl Iterator<Item = &str> {
        self.styles.iter().map(|s| s.name.as_str())
    }

    /// Styles that a style sounds like, for when there are no clips of it.
    pub fn like(&self, style: &str) -> &[String] {
        &self.style(style).like
    }

    /// Training templates with a place `{x}` for an adjective.
    pub fn adjective_templates(&self) -> Vec<String> {
        self.templates["adjective"].of(Side::Train).to_vec()
    }

    /// All words of the phrases of one side.
    pub fn words(&self, side: Side) -> BTreeSet<String> {
        let phrases = self.styles.iter().flat_map(|s| FORMS.iter().flat_map(move |f| phrases(s, side, f)));
        phrases.flat_map(|p| p.split(|c: char| !c.is_alphanumeric())).map(str::to_lowercase).collect()
    }

    /// The styles a corpus label stands for: one, or several when it lists them with commas; `None` when unknown.
    pub fn concepts_of_label(&self, label: &str) -> Option<Vec<String>> {
        let known =
            |part: &str| self.labels.get(part.trim().to_lowercase().as_str()).map(|n| self.styles[*n].name.clone());
        known(label).map(|one| vec![one]).or_else(|| label.split(',').map(known).collect())
    }

    /// All prompts of a class: one style, or two at once. Panics on an unknown style: labels were checked when read.
    pub fn of_class(&self, styles: &[String], side: Side) -> Vec<String> {
        match styles {
            [one] => self.of_style(one, side),
            [first, second, ..] => self.of_pair(first, second, side),
            [] => vec![],
        }
    }

    /// One plain description of a class, always the same: each style's first adjective (or other phrase) in the first training
    /// template. For training without prompt augmentation. Panics as [`Prompts::of_class`] does.
    pub fn plain(&self, styles: &[String]) -> String {
        let one = |name: &String| {
            let style = self.style(name);
            let form = FORMS.into_iter().find(|f| !phrases(style, Side::Train, f).is_empty()).unwrap_or(FORMS[0]);
            let phrase = phrases(style, Side::Train, form).first().map_or(name.as_str(), String::as_str);
            fill(&self.templates[form].of(Side::Train)[0], &[("{x}", phrase)])
        };
        styles.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    fn of_style(&self, name: &str, side: Side) -> Vec<String> {
        self.mixed(name, side, side)
    }

    /// Prompts of one style with the phrases of one side and the templates of another. Panics on an unknown style.
    pub fn mixed(&self, name: &str, phrase_side: Side, template_side: Side) -> Vec<String> {
        let style = self.style(name);
        let mut all = vec![];
        for form in FORMS {
            all.extend(filled(phrases(style, phrase_side, form), self.templates[form].of(template_side)));
        }
        all.sort();
        all.dedup();
        all
    }

    /// Adjectives of one style and side. Panics on an unknown style.
    pub fn adjectives(&self, name: &str, side: Side) -> &[String] {
        phrases(self.style(name), side, "adjective")
    }

    /// Descriptions that negate a style: phrases of one side in the negations of another. Panics on an unknown style.
    pub fn negated(&self, name: &str, phrase_side: Side, negation_side: Side) -> Vec<String> {
        let style = self.style(name);
        let of = |form| filled(phrases(style, phrase_side, form), self.wordings.negations(form, negation_side));
        FORMS.into_iter().flat_map(of).collect()
    }

    fn of_pair(&self, first: &str, second: &str, side: Side) -> Vec<String> {
        // The manner of speaking comes second: it is what one can be doing while sounding like the first.
        let (first, second) = if manner(first) && !manner(second) { (second, first) } else { (first, second) };
        let (first, second) = (self.style(first), self.style(second));
        let mut all = vec![];
        for template in self.templates["pair"].of(side) {
            let mut own = BTreeSet::new();
            for a in phrases(first, side, "adjective") {
                for b in phrases(second, side, "adjective") {
                    for g in phrases(second, side, "gerund") {
                        own.insert(fill(template, &[("{a}", a), ("{b}", b), ("{g}", g)]));
                    }
                }
            }
            // Thousands of combinations say no more than some of them.
            let step = own.len().div_ceil(MOST_PAIRS).max(1);
            all.extend(own.into_iter().step_by(step));
        }
        all.sort();
        all.dedup();
        all
    }

    /// Whether descriptions for training can name an attribute's rank.
    pub fn has_words_for(&self, attribute: &str, rank: &str) -> bool {
        self.attributes.get(attribute).and_then(|ranks| ranks.get(rank)).is_some_and(|w| !w.of(Side::Train).is_empty())
    }

    /// A description of measured attributes, such as `("pitch", "high")`; `None` when the file has no words for any.
    pub fn of_attributes(&self, measured: &[(&str, &str)], side: Side, random: &mut ChaCha8Rng) -> Option<String> {
        let word = |(attribute, rank): &(&str, &str)| {
            let words = self.attributes.get(*attribute)?.get(*rank)?.of(side);
            (!words.is_empty()).then(|| (attribute.to_string(), words[random.random_range(0..words.len())].clone()))
        };
        let words: Vec<String> = measured.iter().filter_map(word).map(|(_, w)| w).collect();
        let templates = self.attribute_templates.of(side);
        if words.is_empty() || templates.is_empty() {
            return None;
        }
        Some(fill(&templates[random.random_range(0..templates.len())], &[("{list}", &words.join(", "))]))
    }

    fn style(&self, name: &str) -> &Style {
        self.styles
            .iter()
            .find(|s| s.name == name)
            .unwrap_or_else(|| panic!("the style {name:?} is not in the prompt file"))
    }
}

/// Styles that say how the voice is used rather than what the speaker feels.
fn manner(style: &str) -> bool {
    ["whispering", "fast", "slow", "projected", "soft", "singing", "high-pitched", "low-pitched", "laughing"]
        .contains(&style)
}

fn phrases<'a>(style: &'a Style, side: Side, form: &str) -> &'a [String] {
    let all = if side == Side::Train { &style.train } else { &style.heldout };
    match form {
        "adjective" => &all.adjective,
        "gerund" => &all.gerund,
        _ => &all.noun,
    }
}

/// Each of some phrases in each of some templates.
fn filled<'a>(phrases: &'a [String], templates: &'a [String]) -> impl Iterator<Item = String> + 'a {
    phrases.iter().flat_map(move |phrase| templates.iter().map(move |template| fill_one(template, phrase)))
}

/// Puts one phrase into the place `{x}` of a template.
pub fn fill_one(template: &str, phrase: &str) -> String {
    fill(template, &[("{x}", phrase)])
}

/// Puts phrases into a template and turns "a" into "an" before a vowel.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = template.to_string();
    for (key, phrase) in values {
        let vowel = phrase.starts_with(['a', 'e', 'i', 'o', 'u']);
        if vowel {
            text = text.replace(&format!("a {key}"), &format!("an {key}"));
        }
        text = text.replace(key, phrase);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> Prompts {
        Prompts::parse(include_str!("../data/prompts.toml")).unwrap()
    }

    #[test]
    fn articles_follow_the_phrase() {
        assert_eq!(fill("a {x} voice", &[("{x}", "angry")]), "an angry voice");
        assert_eq!(fill("a {x} voice", &[("{x}", "calm")]), "a calm voice");
    }

    #[test]
    fn held_out_phrases_and_templates_are_never_trained() {
        let prompts = shipped();
        let collect = |side| -> BTreeSet<&String> {
            prompts.styles.iter().flat_map(|s| FORMS.iter().flat_map(move |f| phrases(s, side, f))).collect()
        };
        let (train, heldout) = (collect(Side::Train), collect(Side::Heldout));
        let both: Vec<_> = train.intersection(&heldout).collect();
        assert!(both.is_empty(), "phrases on both sides: {both:?}");
        for (form, halves) in &prompts.templates {
            let both: Vec<_> = halves.of(Side::Train).iter().filter(|t| halves.of(Side::Heldout).contains(t)).collect();
            assert!(both.is_empty(), "templates of {form} on both sides: {both:?}");
        }
        let texts = |side| prompts.styles().flat_map(|s| prompts.of_style(s, side)).collect::<BTreeSet<_>>();
        assert_eq!(texts(Side::Train).intersection(&texts(Side::Heldout)).count(), 0);
    }

    #[test]
    fn every_style_of_the_paper_has_prompts_of_both_kinds() {
        let paper = "angry awe bored calm confused desire disgusted enunciated excited fast fearful frustrated happy laughing \
                     neutral projected sad sarcastic sleepy surprise sympathetic whisper";
        let prompts = shipped();
        for label in paper.split_whitespace() {
            let concept = prompts.concepts_of_label(label).unwrap_or_else(|| panic!("{label} is unknown"));
            assert!(prompts.of_class(&concept, Side::Train).len() >= 40, "{label}");
            assert!(prompts.of_class(&concept, Side::Heldout).len() >= 8, "{label}");
        }
        assert_eq!(prompts.concepts_of_label("singing, sad").unwrap(), ["singing", "sad"]);
        assert!(prompts.concepts_of_label("no such style").is_none());
    }

    #[test]
    fn the_plain_description_is_one_of_the_training_prompts() {
        let prompts = shipped();
        for style in prompts.styles().map(String::from).collect::<Vec<_>>() {
            let class = [style];
            let plain = prompts.plain(&class);
            assert!(prompts.of_class(&class, Side::Train).contains(&plain), "{plain}");
        }
    }

    #[test]
    fn pairs_put_the_manner_second() {
        let prompts = shipped();
        let both = ["whispering".to_string(), "sad".to_string()];
        let all = prompts.of_class(&both, Side::Train);
        assert!(all.iter().any(|p| p.starts_with("whispering and sounding ")) && all.len() <= 4 * MOST_PAIRS);
    }
}
