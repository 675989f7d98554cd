//! Names compared as directories do that ignore case.

use caseless::Caseless;
use std::ops::RangeInclusive;
use unicode_normalization::UnicodeNormalization;

/// Code points that are not displayed, and that say nothing (`Default_Ignorable_Code_Point`).
const IGNORABLE: [RangeInclusive<char>; 17] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{61c}'..='\u{61c}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{202a}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fff8}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

fn is_ignorable(one: char) -> bool {
    IGNORABLE.iter().any(|range| range.contains(&one))
}

/// The form of a name in which it is compared: names that a directory of ext4, F2FS or tmpfs that ignores case (`chattr +F`) takes for the
/// same have the same. These compare full folding of case in canonical decomposition, without what is ignorable
/// (`fs/unicode`); here it is composed again, so that a letter with its accent is one character to a pattern. What is not UTF-8 is compared as it is.
pub fn fold(name: &[u8]) -> Box<[u8]> {
    if name.is_ascii() {
        return name.to_ascii_lowercase().into();
    }
    match std::str::from_utf8(name) {
        Ok(text) => {
            let shown = text.chars().filter(|one| !is_ignorable(*one));
            shown.nfd().default_case_fold().nfc().collect::<String>().into_bytes().into()
        }
        Err(_) => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_folded_stays_as_it_is_folded() {
        // Beyond are ideographs, and nothing that has another form.
        let all = ('\0'..='\u{1ffff}').chain('\u{2f800}'..='\u{2fa1d}');
        for one in all.filter(|one| !('\u{3400}'..='\u{9fff}').contains(one) && !is_ignorable(*one)) {
            // With what may be composed with it, or come before it in order.
            for text in [one.to_string(), format!("{one}\u{345}\u{301}"), format!("e{one}\u{323}")] {
                let folded = fold(text.as_bytes());
                assert_eq!(fold(&folded), folded, "{text:?}");
                let decomposed: String = text.nfd().collect();
                assert_eq!(fold(decomposed.as_bytes()), folded, "{text:?}");
            }
        }
    }

    #[test]
    fn ascii_is_folded_as_other_text_is() {
        for one in '\0'..='\x7f' {
            let with_more = fold(format!("{one}\u{e9}").as_bytes());
            let (folded, rest) = with_more.split_at(1);
            assert_eq!((folded, rest), (&*fold(one.to_string().as_bytes()), "\u{e9}".as_bytes()));
        }
    }
}
