//! Special tokens as words: a user may write "<|im_end|>" without ending the turn. guard() breaks the special tokens
//! written in what users say, the chat template puts its own around them, and encode() reads the whole: the template's
//! are tokens, the broken ones words.

use std::collections::HashMap;
use std::sync::OnceLock;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::tokenizer::{AddedToken, Tokenizer};

/// Stands behind the first character of a broken special token. Unicode keeps it for such inner uses; where users write
/// it, it becomes U+FFFD.
pub const BREAK: char = '\u{FDD0}';

/// A twin is BREAK and one character from here on: what stands for a special token in a text whose words are read.
const FIRST_TWIN: u32 = 0x10_0000;

pub struct Words {
    special: Vec<(u32, AddedToken)>,
    /// All of `special` as written, overlapping; none without special tokens.
    anywhere: Option<AhoCorasick>,
    /// Made when it is first needed: it holds the vocabulary once more.
    reader: OnceLock<Result<Reader, String>>,
}

struct Reader {
    /// Takes special tokens as words, and twins for the special tokens.
    tokenizer: Tokenizer,
    special_of_twin: HashMap<u32, u32>,
    longest_first: AhoCorasick,
}

fn twin(place: usize) -> String {
    [BREAK, char::from_u32(FIRST_TWIN + place as u32).unwrap_or('\0')].iter().collect()
}

impl Words {
    pub fn new(tokenizer: &Tokenizer) -> Result<Words, String> {
        let mut special: Vec<(u32, AddedToken)> = tokenizer
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special && !token.content.is_empty())
            .collect();
        special.sort_by_key(|(id, _)| *id);
        if special.len() > 0xFFFF {
            return Err(format!("{} special tokens are above the limit of 65535", special.len()));
        }
        let anywhere = match special.is_empty() {
            true => None,
            false => Some(AhoCorasick::new(patterns(&special)).map_err(|e| e.to_string())?),
        };
        Ok(Words { special, anywhere, reader: OnceLock::new() })
    }

    /// None: `text` needs no guard.
    pub fn guard(&self, text: &str) -> Option<String> {
        let mut breaks: Vec<usize> = Vec::new();
        for found in self.anywhere.iter().flat_map(|all| all.find_overlapping_iter(text)) {
            let first = text[found.start()..].chars().next().map_or(1, char::len_utf8);
            breaks.push(found.start() + first);
        }
        if breaks.is_empty() && !text.contains(BREAK) {
            return None;
        }
        breaks.sort_unstable();
        breaks.dedup();
        let mut out = String::with_capacity(text.len() + 3 * breaks.len());
        let mut done = 0;
        for at in breaks.into_iter().chain([text.len()]) {
            out.push_str(&text[done..at].replace(BREAK, "\u{FFFD}"));
            if at < text.len() {
                out.push(BREAK);
            }
            done = at;
        }
        Some(out)
    }

    /// The ids of `guarded`, a text that holds what guard() gave.
    pub fn encode(&self, tokenizer: &Tokenizer, guarded: &str, add_special: bool) -> Result<Vec<u32>, String> {
        let reader = self.reader.get_or_init(|| self.reader_of(tokenizer)).as_ref().map_err(String::clone)?;
        let mut text = String::with_capacity(guarded.len());
        let mut done = 0;
        for found in reader.longest_first.find_iter(guarded) {
            text.push_str(&guarded[done..found.start()].replace(BREAK, ""));
            text.push_str(&twin(found.pattern().as_usize()));
            done = found.end();
        }
        text.push_str(&guarded[done..].replace(BREAK, ""));
        let encoding = reader.tokenizer.encode_fast(text, add_special).map_err(|e| e.to_string())?;
        Ok(encoding.get_ids().iter().map(|id| *reader.special_of_twin.get(id).unwrap_or(id)).collect())
    }

    fn reader_of(&self, tokenizer: &Tokenizer) -> Result<Reader, String> {
        let mut words = tokenizer.clone();
        words.set_encode_special_tokens(true);
        let twins: Vec<AddedToken> = self
            .special
            .iter()
            .enumerate()
            .map(|(place, (_, token))| {
                let twin = AddedToken::from(twin(place), false).normalized(false);
                twin.lstrip(token.lstrip).rstrip(token.rstrip)
            })
            .collect();
        words.add_tokens(twins).map_err(|e| e.to_string())?;
        let mut special_of_twin = HashMap::new();
        for (place, (id, _)) in self.special.iter().enumerate() {
            let twin = words.token_to_id(&twin(place)).ok_or("a token was not added")?;
            special_of_twin.insert(twin, *id);
        }
        let longest_first = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(patterns(&self.special))
            .map_err(|e| e.to_string())?;
        Ok(Reader { tokenizer: words, special_of_twin, longest_first })
    }
}

fn patterns(special: &[(u32, AddedToken)]) -> impl Iterator<Item = &String> {
    special.iter().map(|(_, token)| &token.content)
}
