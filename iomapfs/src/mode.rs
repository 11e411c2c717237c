//! Changes of permission bits as chmod(1) writes them: `0755`, `u+x`, `go-w,a=rX`.
//!
//! Owns the syntax and its meaning; a pure function of the old bits. What is changed is the verb's.

use std::str::FromStr;

/// What happens to the bits of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Add,
    Remove,
    Set,
}

/// One clause: for these classes, this operation with these bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clause {
    /// The bits of the classes named, set-id and sticky included.
    who: u16,
    /// No class was named: the umask limits what is set.
    masked: bool,
    op: Op,
    /// Bits for all classes alike.
    bits: u16,
    /// `X`: execution for directories and what can be executed already.
    conditional: bool,
    /// `u`, `g` or `o`: the bits that class has.
    copy: Option<u16>,
}

/// A change of permission bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// These bits.
    To(u16),
    /// Clauses, one after the other.
    Clauses(Vec<Parsed>),
}

/// A clause that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parsed(Clause);

impl Change {
    /// The bits that `old` becomes.
    pub(crate) fn apply(&self, old: u16, directory: bool, umask: u16) -> u16 {
        match self {
            // As chmod(1) with up to four digits: the set-id bits of a directory stay. More digits,
            // as in 00755, are the same number here; `u-s,g-s` takes the bits away.
            Self::To(bits) if directory => bits | (old & 0o6000),
            Self::To(bits) => *bits,
            Self::Clauses(clauses) => clauses
                .iter()
                .fold(old, |mode, clause| clause.0.apply(mode, directory, umask)),
        }
    }

    /// The bits of something new.
    pub(crate) fn fresh(&self, umask: u16) -> u16 {
        match self {
            Self::To(bits) => *bits,
            Self::Clauses(_) => self.apply(0o777 & !umask, true, umask),
        }
    }
}

impl Clause {
    fn apply(&self, mode: u16, directory: bool, umask: u16) -> u16 {
        let mut bits = self.bits;
        if self.conditional && (directory || mode & 0o111 != 0) {
            bits |= 0o111;
        }
        if let Some(shift) = self.copy {
            bits |= (mode >> shift & 7) * 0o111;
        }
        let mut who = self.who;
        if self.masked {
            who &= !umask;
        }
        let bits = bits & who;
        match self.op {
            Op::Add => mode | bits,
            Op::Remove => mode & !bits,
            Op::Set => {
                // Set-id bits of a directory go away only if they are named.
                let kept = if directory {
                    who & 0o6000 & !bits & mode
                } else {
                    0
                };
                (mode & !who) | bits | kept
            }
        }
    }
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no mode; write it like 0755, u+x or go-w,a=rX");
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let bits = u16::from_str_radix(text, 8)
                .ok()
                .filter(|bits| *bits <= 0o7777);
            return bits.map(Self::To).ok_or_else(wrong);
        }
        let clauses: Option<Vec<_>> = text.split(',').map(clauses_of).collect();
        match clauses {
            Some(clauses) if !text.is_empty() => Ok(Self::Clauses(clauses.concat())),
            _ => Err(wrong()),
        }
    }
}

/// `ug+r-x` is two clauses for the same classes.
fn clauses_of(text: &str) -> Option<Vec<Parsed>> {
    let ops = text.find(['+', '-', '='])?;
    let mut who = 0;
    for c in text[..ops].chars() {
        who |= match c {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o1007,
            'a' => 0o7777,
            _ => return None,
        };
    }
    let masked = who == 0;
    let who = if masked { 0o7777 } else { who };
    let mut clauses: Vec<Parsed> = Vec::new();
    for c in text[ops..].chars() {
        let op = match c {
            '+' => Some(Op::Add),
            '-' => Some(Op::Remove),
            '=' => Some(Op::Set),
            _ => None,
        };
        if let Some(op) = op {
            clauses.push(Parsed(Clause {
                who,
                masked,
                op,
                bits: 0,
                conditional: false,
                copy: None,
            }));
            continue;
        }
        let Parsed(clause) = clauses.last_mut()?;
        match c {
            'r' => clause.bits |= 0o444,
            'w' => clause.bits |= 0o222,
            'x' => clause.bits |= 0o111,
            's' => clause.bits |= 0o6000,
            't' => {
                clause.bits |= 0o1000;
                clause.who |= 0o1000;
            }
            'X' => clause.conditional = true,
            'u' => clause.copy = Some(6),
            'g' => clause.copy = Some(3),
            'o' => clause.copy = Some(0),
            _ => return None,
        }
    }
    Some(clauses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(text: &str, old: u16, directory: bool) -> u16 {
        let change: Change = text.parse().expect("a mode");
        change.apply(old, directory, 0o022)
    }

    #[test]
    fn numbers_are_octal() {
        assert_eq!(changed("755", 0o600, false), 0o755);
        assert_eq!(changed("4755", 0, false), 0o4755);
        assert_eq!(changed("755", 0o2700, true), 0o2755);
    }

    #[test]
    fn letters_mean_what_chmod_means() {
        for (text, old, new) in [
            ("u+x", 0o644, 0o744),
            ("go-r", 0o644, 0o600),
            ("a=r", 0o755, 0o444),
            ("+w", 0o444, 0o644),
            ("u=rwx,go=rx", 0, 0o755),
            ("g=u", 0o640, 0o660),
            ("u+s,g+s", 0o755, 0o6755),
            ("+t", 0o755, 0o1755),
            ("a+X", 0o644, 0o644),
            ("a+X", 0o744, 0o755),
            ("u+r-w", 0o200, 0o400),
            ("o=", 0o777, 0o770),
        ] {
            assert_eq!(changed(text, old, false), new, "{text} on {old:o}");
        }
        assert_eq!(changed("a+X", 0o644, true), 0o755);
        assert_eq!(changed("g=rx", 0o2770, true), 0o2750);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "8", "99999", "u", "x+r", "u+q", "u+x,", "rw-r--r--"] {
            assert!(text.parse::<Change>().is_err(), "{text}");
        }
    }
}
