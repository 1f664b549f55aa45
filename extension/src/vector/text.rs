//! The text form: `[1,2.5,-3e-7]`, followed by `@` and the model's tag where there is one.
//!
//! The tag is part of the text because `pg_dump` writes text: an embedding that is dumped and restored must still know
//! its model. Numbers are the shortest that read back as the same `real`, so the form is lossless. Pure.

use std::fmt::Write;

use super::{MAX_DIMENSIONS, OwnedVector, Vector, VectorError, tag::Tag};

/// Characters of a malformed literal that an error message repeats.
const SHOWN_CHARACTERS: usize = 60;

/// Reads the text form. White space is allowed around brackets, commas and the tag.
pub fn parse(text: &str) -> Result<OwnedVector, VectorError> {
    let syntax = |rest: &str, problem| VectorError::Syntax {
        text: shorten(text),
        problem,
        position: text[..text.len() - rest.len()].chars().count() + 1,
    };
    let mut rest = trim_start(text);
    rest = rest.strip_prefix('[').ok_or_else(|| syntax(rest, "expected \"[\""))?;
    if trim_start(rest).starts_with(']') {
        return Err(VectorError::NoDimensions);
    }
    let mut elements = Vec::new();
    loop {
        rest = trim_start(rest);
        let end = rest.find([',', ']']).ok_or_else(|| syntax(&rest[rest.len()..], "expected \"]\""))?;
        let number = rest[..end].trim_ascii_end();
        let value: f32 = number.parse().map_err(|_| syntax(rest, "expected a number"))?;
        if !value.is_finite() {
            let (position, value) = (elements.len() + 1, shorten(number));
            return Err(if number.contains(|c: char| c.is_ascii_digit()) {
                VectorError::OutOfRange { position, value }
            } else {
                VectorError::NotFinite { position, value }
            });
        }
        if elements.len() == MAX_DIMENSIONS {
            return Err(VectorError::TooManyDimensions);
        }
        elements.push(value);
        let closed = rest.as_bytes()[end] == b']';
        rest = &rest[end + 1..];
        if closed {
            break;
        }
    }
    rest = trim_start(rest);
    let mut tag = Tag::UNTAGGED;
    if let Some(after) = rest.strip_prefix('@') {
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_hexdigit()).len();
        if digits != 16 {
            return Err(syntax(after, "expected a model tag of 16 hexadecimal digits"));
        }
        tag = Tag(u64::from_str_radix(&after[..16], 16).map_err(|_| syntax(after, "expected a model tag"))?);
        rest = trim_start(&after[16..]);
    }
    if !rest.is_empty() {
        return Err(syntax(rest, "unexpected text after the vector"));
    }
    OwnedVector::new(tag, elements)
}

/// Writes the text form.
pub fn print(vector: Vector<'_>) -> String {
    let mut text = String::with_capacity(vector.elements.len() * 12 + 20);
    text.push('[');
    for (index, element) in vector.elements.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        let size = element.abs();
        // Both forms are the shortest that read back exactly; the second keeps huge and tiny numbers short. Writing to
        // a String cannot fail.
        let _ = if size == 0.0 || (1e-5..1e15).contains(&size) {
            write!(text, "{element}")
        } else {
            write!(text, "{element:e}")
        };
    }
    text.push(']');
    if !vector.tag.is_untagged() {
        let _ = write!(text, "@{}", vector.tag);
    }
    text
}

fn trim_start(text: &str) -> &str {
    text.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b')
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: Result<&str, &str>) {
        let got = parse(input).map(|vector| print(vector.as_vector())).map_err(|error| error.to_string());
        assert_eq!(got.as_deref().map_err(String::as_str), expected, "input {input:?}");
    }

    #[test]
    fn what_is_read_is_printed() {
        check("[1,2,3]", Ok("[1,2,3]"));
        check(" [ 1 ,\t2.50 , -3e-7 ]\n", Ok("[1,2.5,-3e-7]"));
        check("[-0,+1,.5,5.]", Ok("[-0,1,0.5,5]"));
        check("[3.4028235e38,1e-45]", Ok("[3.4028235e38,1e-45]"));
        check("[1e-60]", Ok("[0]"));
        check("[1]@0123456789abcdef", Ok("[1]@0123456789abcdef"));
        check("[1] @0123456789ABCDEF ", Ok("[1]@0123456789abcdef"));
        check("[1]@0000000000000000", Ok("[1]"));
    }

    #[test]
    fn what_is_not_a_vector_is_refused() {
        check("", Err("malformed esr_vector literal \"\": expected \"[\" at character 1"));
        check("1,2", Err("malformed esr_vector literal \"1,2\": expected \"[\" at character 1"));
        check("[]", Err("an esr_vector must have at least 1 dimension"));
        check("[1", Err("malformed esr_vector literal \"[1\": expected \"]\" at character 3"));
        check("[1,]", Err("malformed esr_vector literal \"[1,]\": expected a number at character 4"));
        check("[1,,2]", Err("malformed esr_vector literal \"[1,,2]\": expected a number at character 4"));
        check("[ä]", Err("malformed esr_vector literal \"[ä]\": expected a number at character 2"));
        check("[1]x", Err("malformed esr_vector literal \"[1]x\": unexpected text after the vector at character 4"));
        check(
            "[1]@12",
            Err(
                "malformed esr_vector literal \"[1]@12\": expected a model tag of 16 hexadecimal digits at character 5",
            ),
        );
        check("[NaN]", Err("NaN at element 1 is not allowed in an esr_vector"));
        check("[1,-Infinity]", Err("-Infinity at element 2 is not allowed in an esr_vector"));
        check("[1,4e38]", Err("4e38 at element 2 is out of range for an esr_vector"));
        let many = format!("[{}1]", "1,".repeat(MAX_DIMENSIONS));
        check(&many, Err("an esr_vector cannot have more than 16000 dimensions"));
    }

    #[test]
    fn every_element_survives() {
        let mut state = 1u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let element = f32::from_bits((state >> 32) as u32);
            if element.is_finite() {
                let printed = print(Vector { tag: Tag(state), elements: &[element] });
                let read = parse(&printed).unwrap();
                assert_eq!(read.as_vector().elements[0].to_bits(), element.to_bits(), "{printed}");
                assert_eq!(read.as_vector().tag, Tag(state));
            }
        }
    }
}
