//! The subset of Jinja that a template may use.
//!
//! The engine's fuel counts instructions and the bytes of strings, but not all that a hostile template can make
//! grow: lists are joined and repeated without being built, so that forty doublings have the size of 2^40 items when they
//! are looked at; a value that is put into a list again and again, or into itself, ends the stack when it is
//! printed or dropped; a chain of ten thousand operators ends it when it is compiled. So a template is checked
//! before it is compiled:
//!
//! - A tag has at most [`MAX_TAG_TOKENS`] tokens, and `elif` occurs at most [`MAX_ELIFS`] times; with the parser's own limit
//!   of nesting that bounds the depth of the syntax tree.
//! - No construct puts a value into a new container: lists and maps are written out of constants alone, nothing is called,
//!   there are no macros, and no filter makes a list of more than its input has. So no value is deeper or larger than the event and
//!   the constants, but for strings, for which fuel is charged before they are made.
//! - `+` and `*`, which join and repeat lists, need an operand (`*`: both) that is a number by its form.
//! - Constructs that cost the length of a string without a charge are left out: slices, and indexes other than small
//!   constants.

use minijinja::machinery::ast::{BinOpKind, CallArg, Expr, ForLoop, Stmt, UnaryOpKind};
use minijinja::machinery::{Span, Token, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;

use super::TemplateError;
use super::filters::{FILTERS, TESTS};

/// The most tokens of one `{{ … }}` or `{% … %}`.
pub const MAX_TAG_TOKENS: usize = 200;
/// The most `elif` of a template.
pub const MAX_ELIFS: usize = 50;
/// The largest index into a list that a template may write.
const MAX_INDEX: i64 = 999;

/// Filters whose result is a number or an error.
const NUMBERS: [&str; 8] = ["int", "float", "round", "abs", "length", "size", "epoch", "epoch_ms"];
/// Filters whose result is a text or an error.
const TEXTS: [&str; 5] = ["string", "lower", "upper", "trim", "capitalize"];

/// Refuses a template that does not parse, or that uses a part of the language that is not allowed.
pub(super) fn check(template: &str) -> Result<(), TemplateError> {
    check_tokens(template)?;
    let root = parse(template, "shape", SyntaxConfig::default()).map_err(|error| TemplateError::of(&error))?;
    check_statement(&root)
}

fn refused(span: Span, reason: impl Into<String>) -> TemplateError {
    TemplateError {
        line: usize::from(span.start_line),
        column: Some(usize::from(span.start_col) + 1),
        reason: reason.into(),
    }
}

fn check_tokens(template: &str) -> Result<(), TemplateError> {
    let (mut in_tag, mut elifs, mut begins) = (0, 0, false);
    for token in tokenize(template, false, SyntaxConfig::default()) {
        let (token, span) = token.map_err(|error| TemplateError::of(&error))?;
        in_tag += 1;
        match token {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => in_tag = 0,
            Token::Ident("elif") if begins => elifs += 1,
            _ => {}
        }
        begins = matches!(token, Token::BlockStart);
        if in_tag > MAX_TAG_TOKENS {
            return Err(refused(span, format!("the tag has more than {MAX_TAG_TOKENS} tokens: split it with `set`")));
        }
        if elifs > MAX_ELIFS {
            return Err(refused(span, format!("more than {MAX_ELIFS} `elif`: look the value up with `lookup`")));
        }
    }
    Ok(())
}

fn check_all(statements: &[Stmt<'_>]) -> Result<(), TemplateError> {
    statements.iter().try_for_each(check_statement)
}

fn check_statement(statement: &Stmt<'_>) -> Result<(), TemplateError> {
    match statement {
        Stmt::Template(template) => check_all(&template.children),
        Stmt::EmitRaw(_) => Ok(()),
        Stmt::EmitExpr(emit) => check_expression(&emit.expr),
        Stmt::ForLoop(found) => check_loop(found, found.span()),
        Stmt::IfCond(condition) => {
            check_expression(&condition.expr)?;
            check_all(&condition.true_body)?;
            check_all(&condition.false_body)
        }
        Stmt::WithBlock(block) => {
            for (target, value) in &block.assignments {
                check_target(target)?;
                check_expression(value)?;
            }
            check_all(&block.body)
        }
        Stmt::Set(set) => {
            check_target(&set.target)?;
            check_expression(&set.expr)
        }
        Stmt::SetBlock(set) => {
            check_target(&set.target)?;
            set.filter.as_ref().map_or(Ok(()), check_expression)?;
            check_all(&set.body)
        }
        Stmt::FilterBlock(block) => {
            check_expression(&block.filter)?;
            check_all(&block.body)
        }
        Stmt::AutoEscape(block) => Err(refused(block.span(), "`autoescape` is not available: use filters")),
        Stmt::Do(found) => Err(refused(found.span(), "`do` is not available: there is nothing to call")),
    }
}

fn check_loop(found: &ForLoop<'_>, span: Span) -> Result<(), TemplateError> {
    if found.recursive {
        return Err(refused(span, "`recursive` loops are not available"));
    }
    check_target(&found.target)?;
    check_expression(&found.iter)?;
    found.filter_expr.as_ref().map_or(Ok(()), check_expression)?;
    check_all(&found.body)?;
    check_all(&found.else_body)
}

/// Allows a name, or several. Attributes of existing values cannot be set.
fn check_target(target: &Expr<'_>) -> Result<(), TemplateError> {
    match target {
        Expr::Var(_) => Ok(()),
        Expr::Tuple(tuple) => tuple.items.iter().try_for_each(check_target),
        Expr::List(list) => list.items.iter().try_for_each(check_target),
        _ => Err(refused(target.span(), "only a variable can be set")),
    }
}

fn check_expression(expr: &Expr<'_>) -> Result<(), TemplateError> {
    let refuse = |reason: &str| Err(refused(expr.span(), reason));
    match expr {
        Expr::Var(_) | Expr::Const(_) => Ok(()),
        Expr::UnaryOp(operation) => check_expression(&operation.expr),
        Expr::BinOp(operation) => {
            check_expression(&operation.left)?;
            check_expression(&operation.right)?;
            let numbers = (is_number(&operation.left), is_number(&operation.right));
            match (operation.op, numbers) {
                (BinOpKind::Add, (false, false)) => refuse(
                    "`+` needs a number on one side: `(a|float) + b` adds, `a ~ b` joins texts, lists cannot be joined",
                ),
                (BinOpKind::Mul, (false, _) | (_, false)) => {
                    refuse("`*` needs numbers on both sides: `(a|float) * 100`; texts and lists cannot be repeated")
                }
                _ => Ok(()),
            }
        }
        Expr::Compare(comparison) => {
            check_expression(&comparison.expr)?;
            comparison.ops.iter().try_for_each(|operation| check_expression(&operation.expr))
        }
        Expr::IfExpr(choice) => {
            check_expression(&choice.test_expr)?;
            check_expression(&choice.true_expr)?;
            choice.false_expr.as_ref().map_or(Ok(()), check_expression)
        }
        Expr::Filter(filter) => {
            check_name("filter", filter.name, &FILTERS, expr.span())?;
            filter.expr.as_ref().map_or(Ok(()), check_expression)?;
            check_arguments(&filter.args)
        }
        Expr::Test(test) => {
            check_name("test", test.name, &TESTS, expr.span())?;
            check_expression(&test.expr)?;
            check_arguments(&test.args)
        }
        Expr::GetAttr(attribute) => check_expression(&attribute.expr),
        Expr::GetItem(item) => {
            check_expression(&item.expr)?;
            check_expression(&item.subscript_expr)?;
            if is_constant(&item.expr) || is_cheap_subscript(&item.subscript_expr) {
                return Ok(());
            }
            refuse(
                "an index must be a text or a number from 0 to 999: `a[\"b\"]`, `a[0]`, `a[key|string]`; `a|last` is the last",
            )
        }
        Expr::List(_) | Expr::Tuple(_) | Expr::Map(_) if is_constant(expr) => Ok(()),
        Expr::List(_) | Expr::Tuple(_) | Expr::Map(_) => {
            refuse("lists and maps can only be made of constants; write JSON as text, with `tojson` for each value")
        }
        Expr::Slice(_) => refuse("slices are not available: `a|take(5)` has the first five"),
        Expr::Call(_) => refuse("nothing can be called; there are filters: `value|filter`"),
    }
}

fn check_arguments(arguments: &[CallArg<'_>]) -> Result<(), TemplateError> {
    arguments.iter().try_for_each(|argument| match argument {
        CallArg::Pos(expr) | CallArg::Kwarg(_, expr) => check_expression(expr),
        CallArg::PosSplat(expr) | CallArg::KwargSplat(expr) => {
            Err(refused(expr.span(), "`*` and `**` arguments are not available"))
        }
    })
}

fn check_name(what: &str, name: &str, known: &[&str], span: Span) -> Result<(), TemplateError> {
    if known.contains(&name) {
        return Ok(());
    }
    // A name may be as long as the template.
    let shown: String = name.chars().take(40).collect();
    Err(refused(span, format!("there is no {what} `{shown}`; there are {}", known.join(", "))))
}

fn is_constant(expr: &Expr<'_>) -> bool {
    match expr {
        Expr::Const(_) => true,
        Expr::UnaryOp(operation) => matches!(operation.op, UnaryOpKind::Neg) && is_constant(&operation.expr),
        Expr::List(list) => list.items.iter().all(is_constant),
        Expr::Tuple(tuple) => tuple.items.iter().all(is_constant),
        Expr::Map(map) => map.keys.iter().chain(&map.values).all(is_constant),
        _ => false,
    }
}

/// Whether the value is a number or an error for every event.
fn is_number(expr: &Expr<'_>) -> bool {
    match expr {
        Expr::Const(constant) => constant.value.kind() == ValueKind::Number,
        Expr::UnaryOp(operation) => matches!(operation.op, UnaryOpKind::Neg),
        Expr::Filter(filter) => NUMBERS.contains(&filter.name),
        Expr::BinOp(operation) => match operation.op {
            BinOpKind::Sub | BinOpKind::Div | BinOpKind::FloorDiv | BinOpKind::Rem | BinOpKind::Pow => true,
            // The operands are checked on their own.
            BinOpKind::Add => is_number(&operation.left) || is_number(&operation.right),
            BinOpKind::Mul => is_number(&operation.left) && is_number(&operation.right),
            _ => false,
        },
        _ => false,
    }
}

fn is_cheap_subscript(expr: &Expr<'_>) -> bool {
    match expr {
        Expr::Const(constant) => {
            constant.value.as_str().is_some() || constant.value.as_i64().is_some_and(|at| (0..=MAX_INDEX).contains(&at))
        }
        Expr::BinOp(operation) => matches!(operation.op, BinOpKind::Concat),
        Expr::Filter(filter) => TEXTS.contains(&filter.name),
        _ => false,
    }
}
