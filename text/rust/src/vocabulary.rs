//! A tokenizer from the vocabulary that GGUF metadata carries: "gpt2" (byte-level BPE, merges listed) and "llama"
//! (sentencepiece BPE, merges implied by the scores).

use std::collections::HashMap;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers, NFC};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use crate::tokenizer::{Spelling, TextTokenizer};

pub struct Vocabulary {
    pub model: String,
    pub pre: String,
    pub tokens: Vec<String>,
    pub scores: Vec<f32>,
    pub types: Vec<i32>,
    pub merges: Vec<String>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    pub add_bos: bool,
    pub add_eos: bool,
    pub add_space_prefix: bool,
}

const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

const SPACE_MARK: &str = "\u{2581}";

// The split patterns of the models' own tokenizer.json: Llama 3 takes up to three digits together, Qwen 2 one.
const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const KNOWN_PRE: &str = "gpt-2, llama-bpe, qwen2, smollm";

pub fn build(v: Vocabulary) -> Result<TextTokenizer, String> {
    let n = v.tokens.len();
    if n == 0 {
        return Err("the vocabulary is empty".into());
    }
    if v.types.len() != n && !v.types.is_empty() {
        return Err(format!("the vocabulary has {n} tokens but {} token types", v.types.len()));
    }
    for (id, what) in [(v.bos, "begin"), (v.eos, "end"), (v.unknown, "unknown")] {
        if id.is_some_and(|id| id as usize >= n) {
            return Err(format!("the {what} token {} is outside the vocabulary of {n}", id.unwrap_or(0)));
        }
    }
    let kind = |id: usize| v.types.get(id).copied().unwrap_or(1);
    let (tokenizer, spelling) = match v.model.as_str() {
        "gpt2" => byte_level(&v)?,
        "llama" => sentencepiece(&v, kind)?,
        other => {
            return Err(format!("the vocabulary's model \"{other}\" is not supported (known: gpt2, llama)"))
        }
    };
    let mut tokenizer = tokenizer;
    let written =
        |id: usize, special: bool| AddedToken::from(v.tokens[id].clone(), special).normalized(false);
    let added: Vec<bool> = (0..n).map(|id| matches!(kind(id), CONTROL | USER_DEFINED)).collect();
    let special: Vec<bool> = (0..n).map(|id| matches!(kind(id), CONTROL | UNKNOWN)).collect();
    let tokens = (0..n).filter(|id| added[*id] && !v.tokens[*id].is_empty());
    for (id, is_special) in tokens.map(|id| (id, special[id])).collect::<Vec<_>>() {
        let token = [written(id, is_special)];
        if is_special { tokenizer.add_special_tokens(token) } else { tokenizer.add_tokens(token) }
            .map_err(|e| format!("token {id}: {e}"))?;
    }
    let mut text = TextTokenizer::new(tokenizer, &spelling, &v.tokens, &added, special)?;
    text.set_ends(
        v.bos.filter(|_| v.add_bos).into_iter().collect(),
        v.eos.filter(|_| v.add_eos).into_iter().collect(),
    );
    Ok(text)
}

/// Token to id; of equal tokens the first counts.
fn ids(tokens: &[String]) -> ahash::AHashMap<String, u32> {
    let mut map = ahash::AHashMap::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        map.entry(token.clone()).or_insert(id as u32);
    }
    map
}

fn byte_level(v: &Vocabulary) -> Result<(Tokenizer, Spelling), String> {
    let split = |pattern: &str| {
        Split::new(SplitPattern::Regex(pattern.to_owned()), SplitDelimiterBehavior::Isolated, false)
            .map_err(|e| e.to_string())
    };
    let mut ignore_merges = false;
    let mut compose = false;
    let bytes = |use_regex: bool| ByteLevel::new(false, false, use_regex);
    let pre_tokenizer = match v.pre.as_str() {
        "gpt-2" | "gpt2" => PreTokenizers::new(vec![bytes(true).into()]),
        "smollm" => PreTokenizers::new(vec![Digits::new(true).into(), bytes(true).into()]),
        "llama-bpe" | "llama3" | "llama-v3" => {
            ignore_merges = true;
            PreTokenizers::new(vec![split(LLAMA3_SPLIT)?.into(), bytes(false).into()])
        }
        "qwen2" => {
            compose = true;
            PreTokenizers::new(vec![split(QWEN2_SPLIT)?.into(), bytes(false).into()])
        }
        other => return Err(format!("the pre-tokenizer \"{other}\" is not supported (known: {KNOWN_PRE})")),
    };
    let merges = v
        .merges
        .iter()
        .enumerate()
        .map(|(i, merge)| match merge.split_once(' ') {
            Some((l, r)) if !l.is_empty() && !r.is_empty() && !r.contains(' ') => {
                Ok((l.to_owned(), r.to_owned()))
            }
            _ => Err(format!("merge {i} is not two tokens with a space between: \"{merge}\"")),
        })
        .collect::<Result<Vec<_>, String>>()?;
    let vocabulary = ids(&v.tokens);
    for (i, (left, right)) in merges.iter().enumerate() {
        for token in [left, right, &format!("{left}{right}")] {
            if !vocabulary.contains_key(token) {
                return Err(format!(
                    "merge {i} (\"{left} {right}\") needs \"{token}\", which is not in the vocabulary"
                ));
            }
        }
    }
    let model = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .ignore_merges(ignore_merges)
        .build()
        .map_err(|e| e.to_string())?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer));
    if compose {
        tokenizer.with_normalizer(Some(NFC)).map_err(|e| e.to_string())?;
    }
    let spelling = Spelling { byte_level: true, ..Spelling::default() };
    Ok((tokenizer, spelling))
}

fn sentencepiece(v: &Vocabulary, kind: impl Fn(usize) -> i32) -> Result<(Tokenizer, Spelling), String> {
    let n = v.tokens.len();
    if v.scores.len() != n {
        return Err(format!("the vocabulary has {n} tokens but {} scores", v.scores.len()));
    }
    let vocabulary = ids(&v.tokens);
    let mut builder = BPE::builder()
        .vocab_and_merges(vocabulary.clone(), implied_merges(v, &vocabulary, &kind))
        .byte_fallback((0..n).any(|id| kind(id) == BYTE))
        .fuse_unk(true);
    if let Some(unknown) = v.unknown {
        builder = builder.unk_token(v.tokens[unknown as usize].clone());
    }
    let mut tokenizer = Tokenizer::new(builder.build().map_err(|e| e.to_string())?);
    let mut normalizers = vec![];
    if v.add_space_prefix {
        normalizers.push(Prepend::new(SPACE_MARK.to_owned()).into());
    }
    normalizers.push(Replace::new(" ", SPACE_MARK).map_err(|e| e.to_string())?.into());
    tokenizer.with_normalizer(Some(Normalizers::new(normalizers))).map_err(|e| e.to_string())?;
    let spelling = Spelling {
        byte_fallback: true,
        replace: vec![(SPACE_MARK.to_owned(), " ".to_owned())],
        strips_leading_space: v.add_space_prefix,
        ..Spelling::default()
    };
    Ok((tokenizer, spelling))
}

/// Sentencepiece joins two neighbours whenever the joined piece is in the vocabulary, best score first. Every way to
/// cut a piece into two pieces is therefore a merge, ranked by the piece's score.
fn implied_merges(
    v: &Vocabulary,
    vocabulary: &ahash::AHashMap<String, u32>,
    kind: &impl Fn(usize) -> i32,
) -> Vec<(String, String)> {
    let joins = |id: usize| !matches!(kind(id), UNKNOWN | CONTROL | BYTE);
    let mut cuts: HashMap<u32, Vec<(u32, u32)>> = HashMap::new();
    let mut order: Vec<u32> = Vec::new();
    for (id, token) in v.tokens.iter().enumerate().filter(|(id, _)| joins(*id)) {
        let mut found: Vec<(u32, u32)> = token
            .char_indices()
            .skip(1)
            .filter_map(|(at, _)| Some((*vocabulary.get(&token[..at])?, *vocabulary.get(&token[at..])?)))
            .filter(|(l, r)| joins(*l as usize) && joins(*r as usize))
            .collect();
        if !found.is_empty() {
            found.sort_unstable();
            cuts.insert(id as u32, found);
            order.push(id as u32);
        }
    }
    order.sort_by(|a, b| v.scores[*b as usize].total_cmp(&v.scores[*a as usize]).then(a.cmp(b)));
    order
        .iter()
        .flat_map(|id| &cuts[id])
        .map(|(l, r)| (v.tokens[*l as usize].clone(), v.tokens[*r as usize].clone()))
        .collect()
}
