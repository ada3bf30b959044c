//! Matchers with any UTF-8 label name, after Alertmanager's `matcher/parse` (lexer.go, parse.go, token.go; 0.34).

use super::{Matcher, Operator};

/// Characters that stand for nothing but themselves only within quotes.
pub(super) fn is_reserved(c: char) -> bool {
    c.is_whitespace() || "{}!=~,\\\"'`".contains(c)
}

#[derive(Debug, PartialEq)]
enum Token {
    Open,
    Close,
    Comma,
    Operator(Operator),
    /// A name or a value, without its quotes.
    Word(String),
}

/// The matchers of a list, with or without braces; an error says what is wrong at which character.
pub(super) fn parse(text: &str) -> Result<Vec<Matcher>, String> {
    let tokens = tokens(text)?;
    let mut rest = tokens.as_slice();
    let end = text.chars().count();
    let fault = |rest: &[(usize, Token)], what: &str| match rest.first() {
        Some((at, _)) => format!("character {}: {what}", at + 1),
        None => format!("character {}, the end: {what}", end + 1),
    };
    let braces = matches!(rest, [(_, Token::Open), ..]);
    if braces {
        rest = &rest[1..];
    }
    let mut matchers = Vec::new();
    while !matches!(rest, [] | [(_, Token::Close), ..]) {
        let [(_, Token::Word(name)), after @ ..] = rest else {
            return Err(fault(rest, "the name of a label is expected"));
        };
        let [(_, Token::Operator(operator)), after @ ..] = after else {
            return Err(fault(after, "one of =, !=, =~ and !~ is expected"));
        };
        let [(_, Token::Word(value)), after @ ..] = after else {
            return Err(fault(after, "the value of a label is expected"));
        };
        matchers.push(Matcher::new(name.as_str(), *operator, value.as_str())?);
        rest = match after {
            [(_, Token::Comma), after @ ..] => after,
            [] | [(_, Token::Close), ..] => after,
            _ => return Err(fault(after, "a comma is expected")),
        };
    }
    match (braces, rest) {
        (true, [(_, Token::Close)]) | (false, []) => Ok(matchers),
        (true, [(_, Token::Close), after @ ..]) => Err(fault(after, "nothing comes after the closing brace")),
        (true, _) => Err(fault(rest, "the closing brace is missing")),
        (false, _) => Err(fault(rest, "a closing brace without an opening one")),
    }
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, String> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&c) = characters.get(at) {
        let begin = at;
        let next = characters.get(at + 1).copied();
        at += 1;
        let token = match c {
            '{' => Token::Open,
            '}' => Token::Close,
            ',' => Token::Comma,
            '=' if next == Some('~') => {
                at += 1;
                Token::Operator(Operator::Matches)
            }
            '=' => Token::Operator(Operator::Equal),
            '!' if next == Some('~') || next == Some('=') => {
                at += 1;
                Token::Operator(if next == Some('~') { Operator::MatchesNot } else { Operator::NotEqual })
            }
            '"' => {
                let mut escaped = false;
                let length = characters[at..].iter().position(|&c| {
                    let ends = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                });
                let length =
                    length.ok_or_else(|| format!("character {}: the quotes do not end", begin + 1))?;
                let inside = &characters[at..at + length];
                at += length + 1;
                let word = unquote(inside)
                    .ok_or_else(|| format!("character {}: an escape is wrong in the quotes", begin + 1))?;
                Token::Word(word)
            }
            c if c.is_whitespace() => continue,
            c if is_reserved(c) => {
                return Err(format!("character {}: {c:?} stands only within quotes", begin + 1));
            }
            _ => {
                let length = characters[begin..].iter().take_while(|&&c| !is_reserved(c)).count();
                at = begin + length;
                Token::Word(characters[begin..at].iter().collect())
            }
        };
        tokens.push((begin, token));
    }
    Ok(tokens)
}

/// What stands between double quotes, by the rules of Go (`strconv.Unquote`); `None` where it breaks them.
fn unquote(inside: &[char]) -> Option<String> {
    // Escapes may give single bytes, which together must be UTF-8.
    let mut bytes = Vec::with_capacity(inside.len());
    let mut rest = inside;
    while let [c, after @ ..] = rest {
        rest = after;
        if *c == '\n' {
            return None;
        }
        if *c != '\\' {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let [escape, after @ ..] = rest else { return None };
        rest = after;
        let mut number = |digits: usize, radix: u32| -> Option<u32> {
            let (these, after) = rest.split_at_checked(digits)?;
            rest = after;
            these.iter().try_fold(0_u32, |number, c| Some(number * radix + c.to_digit(radix)?))
        };
        match escape {
            'a' => bytes.push(0x07),
            'b' => bytes.push(0x08),
            'f' => bytes.push(0x0c),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(0x0b),
            '\\' => bytes.push(b'\\'),
            '"' => bytes.push(b'"'),
            'x' => bytes.push(u8::try_from(number(2, 16)?).ok()?),
            '0'..='7' => {
                let first = escape.to_digit(8)?;
                bytes.push(u8::try_from(first * 64 + number(2, 8)?).ok()?);
            }
            'u' | 'U' => {
                let c = char::from_u32(number(if *escape == 'u' { 4 } else { 8 }, 16)?)?;
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return None,
        }
    }
    String::from_utf8(bytes).ok()
}
