//! Arithmetic on bands: `(B08 - B04) / (B08 + B04)`.
//!
//! Numbers, band names, `+ - * /`, parentheses, and the functions `abs`, `sqrt`, `log10`, `exp`, `min`, `max`. It is
//! worked out plane by plane (an operation on all pixels of a window at a time), in 64-bit floats. No loops, no
//! conditions, nothing that could run long.

use std::collections::BTreeSet;

/// Deeper nesting than this is refused.
const DEEPEST: usize = 64;

/// A parsed expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    /// A constant.
    Number(f64),
    /// A band by name.
    Band(String),
    /// `- x`
    Negative(Box<Self>),
    /// Two operands.
    Binary(Operator, Box<Self>, Box<Self>),
    /// A function and its arguments.
    Call(Function, Vec<Self>),
}

/// Operators, by precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
}

/// Functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Absolute value.
    Abs,
    /// Square root.
    Sqrt,
    /// Logarithm to base 10.
    Log10,
    /// e to the power of.
    Exp,
    /// The smaller of two.
    Min,
    /// The larger of two.
    Max,
}

impl Function {
    fn of(name: &str) -> Option<(Self, usize)> {
        Some(match name {
            "abs" => (Self::Abs, 1),
            "sqrt" => (Self::Sqrt, 1),
            "log10" => (Self::Log10, 1),
            "exp" => (Self::Exp, 1),
            "min" => (Self::Min, 2),
            "max" => (Self::Max, 2),
            _ => return None,
        })
    }
}

impl Expression {
    /// Reads an expression; the error says what was expected and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { text, at: 0, depth: 0 };
        let expression = parser.sum()?;
        parser.skip();
        if parser.at < text.len() {
            return Err(parser.expected("an operator or the end"));
        }
        Ok(expression)
    }

    /// The bands it reads.
    pub fn bands(&self) -> BTreeSet<&str> {
        let mut bands = BTreeSet::new();
        self.collect(&mut bands);
        bands
    }

    fn collect<'a>(&'a self, bands: &mut BTreeSet<&'a str>) {
        match self {
            Self::Number(_) => {}
            Self::Band(name) => {
                bands.insert(name);
            }
            Self::Negative(inner) => inner.collect(bands),
            Self::Binary(_, a, b) => {
                a.collect(bands);
                b.collect(bands);
            }
            Self::Call(_, arguments) => arguments.iter().for_each(|argument| argument.collect(bands)),
        }
    }

    /// The value of each of `length` pixels; `plane` gives the pixels of a band.
    pub fn evaluate<'a>(&self, length: usize, plane: &impl Fn(&str) -> &'a [f32]) -> Vec<f64> {
        match self {
            Self::Number(value) => vec![*value; length],
            Self::Band(name) => plane(name).iter().map(|value| f64::from(*value)).collect(),
            Self::Negative(inner) => {
                let mut values = inner.evaluate(length, plane);
                values.iter_mut().for_each(|value| *value = -*value);
                values
            }
            Self::Binary(operator, a, b) => {
                let (left, right) = (a.evaluate(length, plane), b.evaluate(length, plane));
                match operator {
                    Operator::Add => combine(left, &right, |a, b| a + b),
                    Operator::Subtract => combine(left, &right, |a, b| a - b),
                    Operator::Multiply => combine(left, &right, |a, b| a * b),
                    Operator::Divide => combine(left, &right, |a, b| a / b),
                }
            }
            Self::Call(function, arguments) => {
                let mut arguments = arguments.iter().map(|argument| argument.evaluate(length, plane));
                let first = arguments.next().unwrap_or_default();
                let second = arguments.next().unwrap_or_default();
                let each = |values: Vec<f64>, f: fn(f64) -> f64| values.into_iter().map(f).collect();
                // A comparison with NaN must give NaN: no-data stays no-data.
                match function {
                    Function::Abs => each(first, f64::abs),
                    Function::Sqrt => each(first, f64::sqrt),
                    Function::Log10 => each(first, f64::log10),
                    Function::Exp => each(first, f64::exp),
                    Function::Min => combine(first, &second, |a, b| known(a, b, a.min(b))),
                    Function::Max => combine(first, &second, |a, b| known(a, b, a.max(b))),
                }
            }
        }
    }
}

/// `value`, or NaN where one of its operands is: `f64::min` and `f64::max` would pass over it.
fn known(a: f64, b: f64, value: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { value }
}

fn combine(mut left: Vec<f64>, right: &[f64], operation: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    for (a, b) in left.iter_mut().zip(right) {
        *a = operation(*a, *b);
    }
    left
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn take(&mut self, symbol: char) -> bool {
        self.skip();
        let found = self.rest().starts_with(symbol);
        if found {
            self.at += symbol.len_utf8();
        }
        found
    }

    fn expected(&self, what: &str) -> String {
        let found: String = self.rest().chars().take(12).collect();
        let found = if found.is_empty() { "the end".to_owned() } else { format!("`{found}`") };
        format!("expected {what} at character {}, found {found}", self.text[..self.at].chars().count() + 1)
    }

    fn sum(&mut self) -> Result<Expression, String> {
        let mut left = self.product()?;
        loop {
            let operator = match () {
                () if self.take('+') => Operator::Add,
                () if self.take('-') => Operator::Subtract,
                () => return Ok(left),
            };
            left = Expression::Binary(operator, Box::new(left), Box::new(self.product()?));
        }
    }

    fn product(&mut self) -> Result<Expression, String> {
        let mut left = self.factor()?;
        loop {
            let operator = match () {
                () if self.take('*') => Operator::Multiply,
                () if self.take('/') => Operator::Divide,
                () => return Ok(left),
            };
            left = Expression::Binary(operator, Box::new(left), Box::new(self.factor()?));
        }
    }

    fn factor(&mut self) -> Result<Expression, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("the expression is nested deeper than {DEEPEST}"));
        }
        let factor = self.undepthed_factor();
        self.depth -= 1;
        factor
    }

    fn undepthed_factor(&mut self) -> Result<Expression, String> {
        if self.take('-') {
            return Ok(Expression::Negative(Box::new(self.factor()?)));
        }
        if self.take('(') {
            let inner = self.sum()?;
            return if self.take(')') { Ok(inner) } else { Err(self.expected("`)`")) };
        }
        self.skip();
        let word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        let end = self.rest().find(|c| !word(c)).map_or(self.text.len(), |n| self.at + n);
        let token = &self.text[self.at..end];
        let Some(first) = token.chars().next() else { return Err(self.expected("a band, a number or `(`")) };
        if first.is_ascii_digit() || first == '.' {
            return match token.parse() {
                Ok(number) => {
                    self.at = end;
                    Ok(Expression::Number(number))
                }
                Err(_) => Err(self.expected("a number")),
            };
        }
        let name = token.to_owned();
        self.at = end;
        if !self.take('(') {
            return Ok(Expression::Band(name));
        }
        let Some((function, count)) = Function::of(&name) else {
            return Err(format!("`{name}` is no function; there are abs, sqrt, log10, exp, min and max"));
        };
        let mut arguments = vec![self.sum()?];
        while self.take(',') {
            arguments.push(self.sum()?);
        }
        if !self.take(')') {
            return Err(self.expected("`,` or `)`"));
        }
        if arguments.len() != count {
            return Err(format!("`{name}` takes {count} values, not {}", arguments.len()));
        }
        Ok(Expression::Call(function, arguments))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_follows_the_usual_precedence() {
        let value = |text: &str| {
            Expression::parse(text).unwrap().evaluate(1, &|name: &str| if name == "B08" { &[6.0] } else { &[2.0] })[0]
        };
        for (text, want) in [
            ("1 + 2 * 3", 7.0),
            ("(B08 - B04) / (B08 + B04)", 0.5),
            ("10 - 4 - 3", 3.0),
            ("24 / 4 / 2", 3.0),
            ("-B04 * -2.5", 5.0),
            ("max(B08, 7) + min(B04, 1) + abs(-3) + sqrt(16)", 15.0),
            ("log10(100) - exp(0)", 1.0),
        ] {
            assert_eq!(value(text), want, "{text}");
        }
        let nan = Expression::parse("max(a, 1) + min(1, a)").unwrap().evaluate(1, &|_: &str| &[f32::NAN]);
        assert!(nan[0].is_nan());
        let names = Expression::parse("B08 / (B8A + B08)").unwrap();
        assert_eq!(names.bands().into_iter().collect::<Vec<_>>(), ["B08", "B8A"]);
    }

    #[test]
    fn what_is_no_expression_is_told_with_its_place() {
        for (text, told) in [
            ("", "expected a band, a number or `(` at character 1, found the end"),
            ("B08 +", "at character 6"),
            ("(B08", "expected `)`"),
            ("B08 B04", "expected an operator or the end at character 5"),
            ("system(1)", "`system` is no function"),
            ("min(1)", "takes 2 values"),
            ("1.2.3", "expected a number"),
            ("B08 ^ 2", "expected an operator"),
        ] {
            let error = Expression::parse(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
        assert!(Expression::parse(&"(".repeat(10_000)).unwrap_err().contains("nested"));
        assert!(Expression::parse(&"-".repeat(10_000)).unwrap_err().contains("nested"));
    }
}
