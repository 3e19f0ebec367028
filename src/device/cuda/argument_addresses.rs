//! Follows the addresses of a kernel's parameters through the PTX: through registers, arithmetic, predicates, and calls of functions.
//!
//! Text in, data out; `argument_memory` decides what is refused. Does not follow addresses through memory: storing one is refused.

use std::collections::{BTreeMap, HashMap};

use super::ptx_tokens::{Statement, Token, TokenKind};

/// Instructions whose result is never an address of a parameter, even if an operand is one.
const WITHOUT_ADDRESS: [&str; 6] = ["ld", "ldu", "prefetch", "isspacep", "wmma.load", "cp"];

/// What is known of a register that holds the address of a parameter, or something computed from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// This many bytes from the start of a parameter.
    Offset(i64),
    /// Anywhere, or only part of an address.
    Computed,
}

impl Address {
    fn join(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (None, known) | (known, None) => known,
            (Some(one), Some(other)) if one == other => Some(one),
            _ => Some(Self::Computed),
        }
    }
}

/// A function of the PTX.
pub(super) struct Function<'s, 'p> {
    name: &'p str,
    is_entry: bool,
    parameters: Vec<Parameter<'p>>,
    /// The name of what it returns.
    returned: Option<&'p str>,
    pub(super) body: &'s [Statement<'s, 'p>],
}

struct Parameter<'p> {
    name: &'p str,
    bytes: i64,
}

impl<'s, 'p> Function<'s, 'p> {
    /// All functions, each with its statements.
    pub(super) fn all(statements: &'s [Statement<'s, 'p>]) -> Vec<Self> {
        let is_head = |statement: &Statement<'_, '_>| {
            statement.depth == 0 && (statement.has(".entry") || statement.has(".func"))
        };
        let heads = statements.iter().enumerate();
        let heads: Vec<usize> = heads
            .filter(|(_, statement)| is_head(statement))
            .map(|(index, _)| index)
            .collect();
        let ends = heads.iter().skip(1).copied().chain([statements.len()]);
        let functions = heads.iter().zip(ends);
        functions
            .map(|(head, end)| Self::of(&statements[*head], &statements[head + 1..end]))
            .collect()
    }

    fn of(head: &Statement<'_, 'p>, body: &'s [Statement<'s, 'p>]) -> Self {
        let tokens = head.tokens;
        let mut depth = 0;
        let name = tokens.iter().position(|token| {
            depth += i32::from(token.is("(")) - i32::from(token.is(")"));
            depth == 0 && is_variable(token)
        });
        let (before, behind) = tokens.split_at(name.unwrap_or(tokens.len()));
        Self {
            name: behind.first().map_or("", |token| token.text),
            is_entry: head.has(".entry"),
            parameters: declared(behind.get(1..).unwrap_or_default()),
            returned: declared(before).first().map(|parameter| parameter.name),
            body,
        }
    }

    /// The bytes that all parameters take.
    pub(super) fn parameter_bytes(&self) -> i64 {
        let sizes = self.parameters.iter().map(|one| one.bytes);
        sizes.fold(0, i64::saturating_add)
    }

    pub(super) fn is_own_parameter(&self, name: &str) -> bool {
        self.parameter_number(name).is_some()
    }

    fn parameter_number(&self, name: &str) -> Option<usize> {
        self.parameters.iter().position(|one| one.name == name)
    }
}

/// The parameters that part of a head declares.
fn declared<'p>(tokens: &[Token<'p>]) -> Vec<Parameter<'p>> {
    let is_end = |token: &Token<'_>| token.is(",") || token.is("(") || token.is(")");
    let declarations = tokens.split(is_end);
    let of_declaration = |tokens: &[Token<'p>]| {
        tokens.iter().find(|token| token.is(".param"))?;
        let at = tokens.iter().rposition(is_variable)?;
        let count = tokens[at + 1..].iter().find_map(|token| number(token.text));
        let element = tokens.iter().find_map(|token| {
            let bits = token.text.strip_prefix(['.'])?;
            bits.strip_prefix(['b', 'u', 's', 'f'])?.parse::<i64>().ok()
        });
        let bytes = (element.unwrap_or(64) / 8).saturating_mul(count.unwrap_or(1));
        Some(Parameter {
            name: tokens[at].text,
            bytes: bytes.saturating_add(7) / 8 * 8,
        })
    };
    declarations.filter_map(of_declaration).collect()
}

fn is_name(token: &Token<'_>) -> bool {
    token.kind == TokenKind::Word && !token.is_directive()
}

/// Whether a token is a name and not a number.
fn is_variable(token: &Token<'_>) -> bool {
    is_name(token) && number_start(token.text).is_none()
}

fn number_start(text: &str) -> Option<char> {
    text.chars().next().filter(char::is_ascii_digit)
}

fn number(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The number behind a sign: `+ 8`, `+ - 8`; 0 if there is none.
fn signed_number(tokens: &[Token<'_>]) -> i64 {
    let mut sign = 1;
    for token in tokens {
        match token.text {
            "+" => {}
            "-" => sign = -sign,
            text => {
                // No parameter is that far away, and sums of such numbers fit.
                let number = number(text).unwrap_or(0);
                return sign * number.clamp(-i64::from(u32::MAX), i64::from(u32::MAX));
            }
        }
    }
    0
}

/// An instruction and the names in it.
pub(super) struct Instruction<'p> {
    /// Its first word; for `wmma` its first two.
    pub(super) name: String,
    /// All operands that are names, in order.
    pub(super) operands: Vec<&'p str>,
    /// How many of the operands are results, if the instruction has any.
    results: usize,
    predicate: Option<&'p str>,
    /// The number that ends it, or that is added to its last name.
    constant: Option<i64>,
}

impl<'p> Instruction<'p> {
    pub(super) fn of(statement: &Statement<'_, 'p>) -> Self {
        let mut words = statement.tokens;
        let mut predicate = None;
        // `@p` or `@!p`.
        if words.first().is_some_and(|first| first.is("@")) {
            words = &words[1..];
            let negated = usize::from(words.first().is_some_and(|first| first.is("!")));
            predicate = words.get(negated).map(|token| token.text);
            words = words.get(negated + 1..).unwrap_or_default();
        }
        let first = words.first().map_or("", |token| token.text);
        let name = match words.get(1) {
            Some(second) if first == "wmma" => format!("{first}{}", second.text),
            _ => first.to_owned(),
        };
        let words = without_modifiers(words.get(1..).unwrap_or_default());
        let operands = words.iter().filter(|token| is_variable(token));
        let words: Vec<_> = words
            .iter()
            .filter(|token| !token.is(";"))
            .copied()
            .collect();
        let end = words
            .iter()
            .rposition(|token| token.is(",") || is_variable(token));
        let behind = end.map_or(&[][..], |end| &words[end + 1..]);
        let has_number = behind.iter().any(|token| number(token.text).is_some());
        Self {
            name,
            results: count_results(&words),
            operands: operands.map(|token| token.text).collect(),
            predicate,
            constant: has_number.then(|| signed_number(behind)),
        }
    }

    fn results(&self) -> &[&'p str] {
        &self.operands[..self.results.min(self.operands.len())]
    }

    fn sources(&self) -> &[&'p str] {
        &self.operands[self.results.min(self.operands.len())..]
    }

    /// The names between brackets, each with the number that is added to it.
    pub(super) fn places(&self, statement: &Statement<'_, 'p>) -> Vec<(&'p str, i64)> {
        let tokens = statement.tokens;
        let opened = tokens.iter().enumerate().filter(|(_, token)| token.is("["));
        let place = |(at, _): (usize, &Token<'p>)| {
            let inside = &tokens[at + 1..];
            let end = inside.iter().position(|token| token.is("]"))?;
            let name = inside[..end].first().filter(|token| is_variable(token))?;
            Some((name.text, signed_number(&inside[1..end])))
        };
        opened.filter_map(place).collect()
    }
}

/// The tokens of an instruction behind its modifiers. A modifier can have two words: `.param::entry`.
fn without_modifiers<'t, 'p>(tokens: &'t [Token<'p>]) -> &'t [Token<'p>] {
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let is_second = at >= 2 && tokens[at - 1].is(":") && tokens[at - 2].is(":");
        if !(token.is_directive() || token.is(":") || is_second) {
            break;
        }
        at += 1;
    }
    &tokens[at..]
}

/// How many names the first operand has: `%r1`, `%p1|%p2` or `{%r1, %r2}`.
fn count_results(words: &[Token<'_>]) -> usize {
    let is_first_end = |token: &Token<'_>| token.is("}");
    let first = match words.first() {
        Some(token) if token.is("{") => {
            let end = words.iter().position(is_first_end);
            &words[..end.unwrap_or(words.len())]
        }
        _ => {
            let end = words.iter().position(|token| token.is(","));
            &words[..end.unwrap_or(words.len())]
        }
    };
    first.iter().filter(|token| is_variable(token)).count()
}

/// A value that a call passes: the name of the memory and the offset there.
type Passed<'p> = BTreeMap<(&'p str, i64), Option<Address>>;

/// Which registers of which function hold an address of a parameter of a kernel.
pub(super) struct AddressMap<'p> {
    registers: Vec<BTreeMap<&'p str, Address>>,
    /// By function: of its parameters, by number and offset.
    parameters: Vec<BTreeMap<(usize, i64), Address>>,
    /// By function: of what it returns, by offset.
    returned: Vec<BTreeMap<i64, Address>>,
    passes_to_unknown: Vec<bool>,
    numbers: HashMap<&'p str, usize>,
    widest_entry: i64,
    has_changed: bool,
}

impl<'p> AddressMap<'p> {
    /// Follows the addresses through all functions until nothing is added. Loops and calls carry them backwards.
    pub(super) fn follow(functions: &[Function<'_, 'p>]) -> Self {
        let entries = functions.iter().filter(|function| function.is_entry);
        let mut map = Self {
            registers: vec![BTreeMap::new(); functions.len()],
            parameters: vec![BTreeMap::new(); functions.len()],
            returned: vec![BTreeMap::new(); functions.len()],
            passes_to_unknown: vec![false; functions.len()],
            // A definition comes after its declarations.
            numbers: (functions.iter().enumerate())
                .map(|(index, function)| (function.name, index))
                .collect(),
            widest_entry: entries.map(Function::parameter_bytes).max().unwrap_or(0),
            has_changed: true,
        };
        while std::mem::take(&mut map.has_changed) {
            for (index, function) in functions.iter().enumerate() {
                map.follow_function(index, function);
            }
        }
        map
    }

    /// What a register of a function holds; `None`: no address of a parameter.
    pub(super) fn address(&self, function: usize, register: &str) -> Option<Address> {
        self.registers.get(function)?.get(register).copied()
    }

    /// The bytes of the parameters of the entry that has the most.
    pub(super) fn widest_entry(&self) -> i64 {
        self.widest_entry
    }

    /// Whether a function passes an address to one that the PTX does not name.
    pub(super) fn passes_to_unknown(&self, function: usize) -> bool {
        self.passes_to_unknown[function]
    }

    fn follow_function(&mut self, index: usize, function: &Function<'_, 'p>) {
        let mut passed = Passed::new();
        for statement in function.body {
            if statement.first().is_none_or(Token::is_directive) {
                continue;
            }
            let instruction = Instruction::of(statement);
            let is_parameter = statement.has(".param");
            match instruction.name.as_str() {
                "st" if is_parameter => {
                    self.pass(index, function, statement, &instruction, &mut passed);
                }
                "ld" if is_parameter => {
                    self.load(index, function, statement, &instruction, &passed);
                }
                "call" => self.call(index, statement, &mut passed),
                name if !WITHOUT_ADDRESS.contains(&name) => {
                    self.compute(index, function, &instruction);
                }
                _ => {}
            }
        }
    }

    fn add(&mut self, function: usize, register: &'p str, address: Option<Address>) {
        let known = self.registers[function].get(register).copied();
        let joined = Address::join(known, address);
        if joined != known
            && let Some(joined) = joined
        {
            self.registers[function].insert(register, joined);
            self.has_changed = true;
        }
    }

    /// `st.param`: a value that a call passes, or that the function returns.
    fn pass(
        &mut self,
        index: usize,
        function: &Function<'_, 'p>,
        statement: &Statement<'_, 'p>,
        instruction: &Instruction<'p>,
        passed: &mut Passed<'p>,
    ) {
        let Some((place, offset)) = instruction.places(statement).first().copied() else {
            return;
        };
        let values = instruction.operands.iter().filter(|name| **name != place);
        for (offset, value) in (offset..).step_by(WORD_STEP).zip(values) {
            let address = self.address(index, value);
            if function.returned == Some(place) {
                let known = self.returned[index].get(&offset).copied();
                let joined = Address::join(known, address);
                if let Some(joined) = joined.filter(|joined| known != Some(*joined)) {
                    self.returned[index].insert(offset, joined);
                    self.has_changed = true;
                }
            } else {
                passed.insert((place, offset), address);
            }
        }
    }

    /// `ld.param`: a value that was passed to the function, or that a call has returned.
    fn load(
        &mut self,
        index: usize,
        function: &Function<'_, 'p>,
        statement: &Statement<'_, 'p>,
        instruction: &Instruction<'p>,
        passed: &Passed<'p>,
    ) {
        let Some((place, offset)) = instruction.places(statement).first().copied() else {
            return;
        };
        let number = function.parameter_number(place);
        for (offset, result) in (offset..).step_by(WORD_STEP).zip(instruction.results()) {
            let at = |known: i64, address: Address| match offset - known {
                0 => Some(address),
                // Part of it.
                -7..8 => Some(Address::Computed),
                _ => None,
            };
            let found = match number {
                Some(number) => (self.parameters[index].iter())
                    .filter(|((of, _), _)| *of == number)
                    .find_map(|((_, known), address)| at(*known, *address)),
                None => (passed.iter())
                    .filter(|((of, _), _)| *of == place)
                    .find_map(|((_, known), address)| at(*known, (*address)?)),
            };
            self.add(index, result, found);
        }
    }

    fn call(&mut self, index: usize, statement: &Statement<'_, 'p>, passed: &mut Passed<'p>) {
        let parts = CallParts::of(statement);
        let callee = parts
            .target
            .and_then(|name| self.numbers.get(name))
            .copied();
        for (number, argument) in parts.arguments.iter().enumerate() {
            let values = passed.iter().filter(|((name, _), _)| name == argument);
            let values: Vec<_> = values
                .filter_map(|((_, offset), address)| Some((*offset, (*address)?)))
                .collect();
            for (offset, address) in values {
                let Some(callee) = callee else {
                    self.passes_to_unknown[index] = true;
                    continue;
                };
                let known = self.parameters[callee].get(&(number, offset)).copied();
                let joined = Address::join(known, Some(address));
                if let Some(joined) = joined.filter(|joined| known != Some(*joined)) {
                    self.parameters[callee].insert((number, offset), joined);
                    self.has_changed = true;
                }
            }
        }
        let returned = callee.map(|callee| self.returned[callee].clone());
        for result in parts.results {
            passed.retain(|(name, _), _| *name != result);
            for (offset, address) in returned.iter().flatten() {
                passed.insert((result, *offset), Some(*address));
            }
        }
    }

    /// An instruction that computes its results from its operands.
    fn compute(
        &mut self,
        index: usize,
        function: &Function<'_, 'p>,
        instruction: &Instruction<'p>,
    ) {
        let of_source = |name: &&'p str| {
            let is_parameter = function.is_entry && function.is_own_parameter(name);
            let own = is_parameter.then_some(Address::Offset(0));
            self.address(index, name).or(own)
        };
        let sources = instruction.sources();
        let mut known = sources.iter().filter_map(of_source);
        let Some(first) = known.next() else {
            let is_predicated = instruction.predicate.as_ref().and_then(of_source);
            if is_predicated.is_some() {
                self.add_results(index, instruction, Address::Computed);
            }
            return;
        };
        let is_single = instruction.results().len() == 1 && sources.len() == 1;
        let constant = instruction.constant.unwrap_or(0);
        let address = match (instruction.name.as_str(), first) {
            ("mov" | "cvta" | "add", Address::Offset(start)) if is_single => {
                Address::Offset(start.saturating_add(constant))
            }
            ("sub", Address::Offset(start)) if is_single => {
                Address::Offset(start.saturating_sub(constant))
            }
            // The last operand is the predicate.
            ("selp", first) if sources.last().and_then(of_source).is_none() => {
                Address::join(Some(first), known.next()).unwrap_or(first)
            }
            _ => Address::Computed,
        };
        self.add_results(index, instruction, address);
    }

    fn add_results(&mut self, index: usize, instruction: &Instruction<'p>, address: Address) {
        for result in instruction.results() {
            self.add(index, result, Some(address));
        }
    }
}

/// The distance of the values that one instruction passes, if they are addresses.
const WORD_STEP: usize = 8;

/// `call.uni (results), target, (arguments), prototype;`
struct CallParts<'p> {
    results: Vec<&'p str>,
    target: Option<&'p str>,
    arguments: Vec<&'p str>,
}

impl<'p> CallParts<'p> {
    fn of(statement: &Statement<'_, 'p>) -> Self {
        let mut parts = Self {
            results: Vec::new(),
            target: None,
            arguments: Vec::new(),
        };
        let start = statement.tokens.iter().position(|token| token.is("call"));
        let mut depth = 0;
        for token in &statement.tokens[start.map_or(0, |start| start + 1)..] {
            depth += i32::from(token.is("(")) - i32::from(token.is(")"));
            match (depth, is_variable(token), parts.target) {
                (0, true, None) => parts.target = Some(token.text),
                (1, true, None) => parts.results.push(token.text),
                (1, true, Some(_)) => parts.arguments.push(token.text),
                _ => {}
            }
        }
        parts
    }
}
