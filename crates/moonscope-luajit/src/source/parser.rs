//! Structure of a Lua source: which functions it defines, from which line to which, and what each is called by
//! its definition.
//!
//! Follows the grammar of LuaJIT's parser (lj_parse.c), the syntax extensions of 2026 included, because a
//! prototype's lines are those of certain tokens there: the first is the line of `function` in a statement
//! `function f(`, and of the word behind it in `local function f(` and in expressions; the last is the line
//! of `end`. Operators need no priorities here, and what a name refers to is of no interest.

use super::definition::{Definition, Target};
use super::lexer::{Kind, Lexer, SourceError, Token};
use super::{FunctionSpan, MAX_FUNCTIONS};

/// Nesting of blocks and expressions. LuaJIT refuses more than `LJ_MAX_XLEVEL`, 200, counted a little
/// differently.
const MAX_DEPTH: u32 = 256;

type Parsed<T> = Result<T, SourceError>;

/// Where an expression stands, as far as its grammar depends on it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Anywhere,
    /// Between `?` and `:`, where a colon does not call a method.
    BeforeColon,
    /// The beginning of a statement.
    Statement,
}

pub(super) struct Parser<'t> {
    lexer: Lexer<'t>,
    token: Token<'t>,
    /// Words behind us.
    words: u64,
    depth: u32,
    /// Names of the functions that are open here, outermost first.
    enclosing: Vec<String>,
    spans: Vec<FunctionSpan>,
}

/// All functions of a source, the main chunk last.
pub(super) fn parse(text: &[u8]) -> Parsed<Vec<FunctionSpan>> {
    let mut lexer = Lexer::new(text);
    let token = lexer.next()?;
    let mut parser = Parser {
        lexer,
        token,
        words: 0,
        depth: 0,
        enclosing: Vec::new(),
        spans: Vec::new(),
    };
    parser.block()?;
    if parser.token.kind != Kind::End {
        return parser.refuse("the source goes on behind its end");
    }
    let last_line = parser.token.line;
    let name = super::MAIN_CHUNK.into();
    parser.spans.push(FunctionSpan {
        first_line: 0,
        last_line,
        params: 0,
        is_vararg: true,
        name,
    });
    Ok(parser.spans)
}

impl<'t> Parser<'t> {
    fn refuse<T>(&self, what: &'static str) -> Parsed<T> {
        let line = self.token.line;
        Err(SourceError { line, what })
    }

    fn next(&mut self) -> Parsed<Token<'t>> {
        let token = self.lexer.next()?;
        self.words += 1;
        Ok(std::mem::replace(&mut self.token, token))
    }

    /// The word behind the current one.
    fn lookahead(&self) -> Parsed<Token<'t>> {
        self.lexer.clone().next()
    }

    /// The current word is this symbol or reserved word.
    fn at(&self, text: &str) -> bool {
        matches!(self.token.kind, Kind::Symbol | Kind::Keyword) && self.token.text == text.as_bytes()
    }

    fn accept(&mut self, text: &str) -> Parsed<bool> {
        let found = self.at(text);
        if found {
            self.next()?;
        }
        Ok(found)
    }

    fn expect(&mut self, text: &str, what: &'static str) -> Parsed<()> {
        if self.accept(text)? {
            Ok(())
        } else {
            self.refuse(what)
        }
    }

    fn name(&mut self) -> Parsed<&'t [u8]> {
        match self.token.kind {
            Kind::Name => Ok(self.next()?.text),
            _ => self.refuse("a name is missing"),
        }
    }

    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= MAX_DEPTH {
            return self.refuse("too deeply nested");
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    // -- Statements

    fn at_block_end(&self) -> bool {
        self.token.kind == Kind::End
            || ["end", "else", "elseif", "until"]
                .iter()
                .any(|word| self.at(word))
    }

    fn block(&mut self) -> Parsed<()> {
        self.deeper(|this| {
            while !this.at_block_end() {
                this.statement()?;
                while this.accept(";")? {}
            }
            Ok(())
        })
    }

    fn block_and_end(&mut self) -> Parsed<()> {
        self.block()?;
        self.expect("end", "`end` is missing")
    }

    fn statement(&mut self) -> Parsed<()> {
        let line = self.token.line;
        match (self.token.kind, self.token.text) {
            (Kind::Keyword, word) => {
                if word != b"function" {
                    self.next()?;
                }
                match word {
                    b"if" => self.if_statement(),
                    b"while" => {
                        self.expression(&Definition::Unnamed, Place::Anywhere)?;
                        self.expect("do", "`do` is missing")?;
                        self.block_and_end()
                    }
                    b"do" => self.block_and_end(),
                    b"for" => self.for_statement(),
                    b"repeat" => {
                        self.block()?;
                        self.expect("until", "`until` is missing")?;
                        self.expression(&Definition::Unnamed, Place::Anywhere)
                    }
                    b"function" => self.function_statement(line),
                    b"local" => self.local(),
                    b"return" => self.return_statement(),
                    b"break" => Ok(()),
                    _ => self.refuse("a statement cannot begin here"),
                }
            }
            (Kind::Symbol, b"::") => {
                self.next()?;
                self.name()?;
                self.expect("::", "`::` is missing")
            }
            (Kind::Name, b"goto") if self.lookahead()?.kind == Kind::Name => {
                self.next()?;
                self.name().map(drop)
            }
            (Kind::Name, b"const") if self.begins_const()? => {
                self.next()?;
                self.local()
            }
            (Kind::Name, b"continue") if self.ends_block_behind()? => self.next().map(drop),
            _ => self.call_or_assignment(),
        }
    }

    fn begins_const(&self) -> Parsed<bool> {
        let behind = self.lookahead()?;
        Ok(behind.kind == Kind::Name || behind.kind == Kind::Keyword && behind.text == b"function")
    }

    fn ends_block_behind(&self) -> Parsed<bool> {
        let behind = self.lookahead()?;
        let ends: [&[u8]; 4] = [b"end", b"else", b"elseif", b"until"];
        Ok(behind.kind == Kind::End || behind.kind == Kind::Keyword && ends.contains(&behind.text))
    }

    fn if_statement(&mut self) -> Parsed<()> {
        loop {
            self.expression(&Definition::Unnamed, Place::Anywhere)?;
            self.expect("then", "`then` is missing")?;
            self.block()?;
            if !self.accept("elseif")? {
                break;
            }
        }
        if self.accept("else")? {
            self.block()?;
        }
        self.expect("end", "`end` is missing")
    }

    fn for_statement(&mut self) -> Parsed<()> {
        self.name()?;
        while self.accept(",")? {
            self.name()?;
        }
        if !self.at("=") && !self.at("in") {
            return self.refuse("`=` or `in` is missing");
        }
        self.next()?;
        self.expressions(&[], &Definition::Unnamed)?;
        self.expect("do", "`do` is missing")?;
        self.block_and_end()
    }

    fn function_statement(&mut self, line: u32) -> Parsed<()> {
        self.next()?;
        let mut target = Target::name(self.name()?);
        let mut is_method = false;
        while !is_method && (self.at(".") || self.at(":")) {
            is_method = self.next()?.text == b":";
            let field = self.name()?;
            if is_method {
                target.method(field)
            } else {
                target.field(field)
            }
        }
        self.body(target.into_name(), line, is_method)
    }

    fn local(&mut self) -> Parsed<()> {
        if self.accept("function")? {
            let target = Target::name(self.name()?);
            let line = self.token.line;
            return self.body(target.into_name(), line, false);
        }
        let mut targets = vec![Target::name(self.name()?).into_definition()];
        while self.accept(",")? {
            targets.push(Target::name(self.name()?).into_definition());
        }
        if self.accept("=")? {
            self.expressions(&targets, &Definition::Unnamed)?;
        }
        Ok(())
    }

    fn return_statement(&mut self) -> Parsed<()> {
        if !self.at_block_end() && !self.at(";") {
            let from = self.enclosing.last().cloned();
            self.expressions(&[], &Definition::Returned(from))?;
        }
        Ok(())
    }

    fn call_or_assignment(&mut self) -> Parsed<()> {
        let (first, is_call) = self.primary(&Definition::Unnamed, Place::Statement)?;
        if is_call {
            return Ok(());
        }
        let mut targets = vec![first.into_definition()];
        while self.accept(",")? {
            let (target, _) = self.primary(&Definition::Unnamed, Place::Statement)?;
            targets.push(target.into_definition());
        }
        // `a += 1` and its like, of 2026; `a ~= 1` is one of them.
        if self.at_binary_operator() && self.next()?.text == b"~=" {
            return self.expressions(&targets, &Definition::Unnamed);
        }
        self.expect("=", "`=` is missing")?;
        self.expressions(&targets, &Definition::Unnamed)
    }

    // -- Expressions

    /// A list of expressions; the first of them define `targets`, the others `rest`.
    fn expressions(&mut self, targets: &[Definition], rest: &Definition) -> Parsed<()> {
        let mut targets = targets.iter();
        loop {
            self.expression(targets.next().unwrap_or(rest), Place::Anywhere)?;
            if !self.accept(",")? {
                return Ok(());
            }
        }
    }

    fn at_binary_operator(&self) -> bool {
        const OPERATORS: [&str; 25] = [
            "+", "-", "*", "/", "%", "^", "..", "==", "~=", "<", "<=", ">", ">=", "and", "or", "&", "|", "~",
            "<<", ">>", "~>>", "!=", "&&", "||", "??",
        ];
        OPERATORS.iter().any(|operator| self.at(operator))
    }

    fn expression(&mut self, definition: &Definition, place: Place) -> Parsed<()> {
        self.deeper(|this| {
            loop {
                while ["not", "-", "#", "~", "!"]
                    .iter()
                    .any(|operator| this.at(operator))
                {
                    this.next()?;
                }
                this.simple(definition, place)?;
                if !this.at_binary_operator() {
                    break;
                }
                this.next()?;
            }
            if this.accept("?")? {
                this.expression(definition, Place::BeforeColon)?;
                this.expect(":", "`:` is missing")?;
                this.expression(definition, Place::Anywhere)?;
            }
            Ok(())
        })
    }

    fn simple(&mut self, definition: &Definition, place: Place) -> Parsed<()> {
        match (self.token.kind, self.token.text) {
            (Kind::Number | Kind::String, _)
            | (Kind::Keyword, b"nil" | b"true" | b"false")
            | (Kind::Symbol, b"...") => self.next().map(drop),
            (Kind::Symbol, b"{") => self.table(definition),
            (Kind::Keyword, b"function") => {
                self.next()?;
                let line = self.token.line;
                self.body(definition.function_name(), line, false)
            }
            (Kind::Symbol, b"|" | b"||") => {
                let line = self.token.line;
                let (params, is_vararg) = match self.accept("||")? {
                    true => (0, false),
                    false => self.params("|", "|")?,
                };
                self.short_function(definition.function_name(), line, params, is_vararg, place)
            }
            _ => self.primary(definition, place).map(drop),
        }
    }

    /// A variable, a field, a call, or something in parentheses: what it is called, and whether it ends with
    /// a call.
    fn primary(&mut self, definition: &Definition, place: Place) -> Parsed<(Target, bool)> {
        let mut target = if self.accept("(")? {
            self.expression(&Definition::Unnamed, Place::Anywhere)?;
            self.expect(")", "`)` is missing")?;
            Target::unknown()
        } else {
            let line = self.token.line;
            let name = self.name()?;
            if place != Place::Statement && self.at("->") {
                self.short_function(definition.function_name(), line, 1, false, place)?;
                return Ok((Target::unknown(), false));
            }
            Target::name(name)
        };
        let mut is_call = false;
        loop {
            let safe = self.accept("?.")?;
            is_call = if self.at("[") {
                self.key(&mut target)?;
                false
            } else if self.at(":") && place != Place::BeforeColon {
                self.next()?;
                let method = self.name()?;
                target.method(method);
                self.accept("?.")?;
                self.arguments(&mut target)?;
                true
            } else if self.at("(") || self.at("{") || self.token.kind == Kind::String {
                self.arguments(&mut target)?;
                true
            } else if safe || self.accept(".")? {
                let field = self.name()?;
                target.field(field);
                false
            } else {
                return Ok((target, is_call));
            };
        }
    }

    /// `[key]` behind a table.
    fn key(&mut self, target: &mut Target) -> Parsed<()> {
        self.next()?;
        let (first, before) = (self.token, self.words);
        self.expression(&Definition::Unnamed, Place::Anywhere)?;
        let is_one_word = self.words == before + 1;
        target.index(is_one_word.then_some(first));
        self.expect("]", "`]` is missing")
    }

    fn arguments(&mut self, target: &mut Target) -> Parsed<()> {
        let definition = Definition::Argument(target.clone().into_name());
        if self.accept("(")? {
            if !self.at(")") {
                self.expressions(&[], &definition)?;
            }
            self.expect(")", "`)` is missing")?;
        } else if self.at("{") {
            self.table(&definition)?;
        } else if self.token.kind == Kind::String {
            self.next()?;
        } else {
            return self.refuse("arguments are missing");
        }
        target.call();
        Ok(())
    }

    fn table(&mut self, definition: &Definition) -> Parsed<()> {
        self.next()?;
        let mut position = 0;
        while !self.at("}") {
            let mut target = definition.table();
            if self.at("[") {
                self.key(&mut target)?;
                self.expect("=", "`=` is missing")?;
            } else if self.token.kind == Kind::Name && self.lookahead_is("=")? {
                target.field(self.next()?.text);
                self.next()?;
            } else {
                position += 1;
                target.position(position);
            }
            self.expression(&target.into_definition(), Place::Anywhere)?;
            if !self.accept(",")? && !self.accept(";")? {
                break;
            }
        }
        self.expect("}", "`}` is missing")
    }

    fn lookahead_is(&self, symbol: &str) -> Parsed<bool> {
        let behind = self.lookahead()?;
        Ok(behind.kind == Kind::Symbol && behind.text == symbol.as_bytes())
    }

    // -- Functions

    /// Parameters with their parentheses: how many, and whether `...` is among them.
    fn params(&mut self, open: &str, close: &str) -> Parsed<(u32, bool)> {
        self.expect(open, "parameters are missing")?;
        let (mut params, mut is_vararg) = (0, false);
        if !self.at(close) {
            loop {
                if self.accept("...")? {
                    is_vararg = true;
                    break;
                }
                self.name()?;
                params += 1;
                if !self.accept(",")? {
                    break;
                }
            }
        }
        self.expect(close, "the parameters do not end")?;
        Ok((params, is_vararg))
    }

    fn body(&mut self, name: String, first_line: u32, is_method: bool) -> Parsed<()> {
        let (params, is_vararg) = self.params("(", ")")?;
        self.enclosing.push(name);
        self.block()?;
        if !self.at("end") {
            return self.refuse("`end` of a function is missing");
        }
        self.finish(first_line, params + u32::from(is_method), is_vararg)?;
        self.next().map(drop)
    }

    /// `-> expression` or `-> do … end`. It ends on the line of the word behind it (parse_shortfunc).
    fn short_function(
        &mut self,
        name: String,
        first_line: u32,
        params: u32,
        is_vararg: bool,
        place: Place,
    ) -> Parsed<()> {
        self.expect("->", "`->` is missing")?;
        self.enclosing.push(name);
        if self.accept("do")? {
            self.block_and_end()?;
        } else {
            let from = self.enclosing.last().cloned();
            self.expression(&Definition::Returned(from), place)?;
        }
        self.finish(first_line, params, is_vararg)
    }

    /// The innermost open function ends at the current word.
    fn finish(&mut self, first_line: u32, params: u32, is_vararg: bool) -> Parsed<()> {
        if self.spans.len() >= MAX_FUNCTIONS {
            return self.refuse("too many functions");
        }
        let name = self.enclosing.pop().unwrap_or_default().into_boxed_str();
        let last_line = self.token.line;
        self.spans.push(FunctionSpan {
            first_line,
            last_line,
            params,
            is_vararg,
            name,
        });
        Ok(())
    }
}
