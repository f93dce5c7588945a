//! A network as a drawing.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::outline::{LayerOutline, Outline};

/// Distance of one layer from the next, and height of its box.
const ROW: usize = 26;
const HEIGHT: usize = 20;
/// Room for a letter of the drawing's size, and between the columns of two levels.
const LETTER: usize = 7;
const GAP: usize = 24;
const MARGIN: usize = 20;

/// An SVG of a network: a box a layer, from top to bottom in the order of evaluation, the further right the larger its voxels;
/// lines from what a layer reads.
pub fn drawing(name: &str, outline: &Outline) -> String {
    let level = |layer: &LayerOutline| {
        let voxels = outline.shape.iter().product::<usize>() as f64;
        let own = layer.shape[1..].iter().product::<usize>() as f64;
        (voxels / own).log2().div_euclid(3.0).max(0.0) as usize
    };
    let extents = |shape: &[usize]| shape.iter().map(usize::to_string).collect::<Vec<_>>().join("\u{d7}");
    let label = |layer: &LayerOutline| format!("{}  {}", layer.name, extents(&layer.shape));
    let letters = outline.layers.iter().map(|layer| label(layer).chars().count()).max().unwrap_or(0);
    let wide = letters.max(20) * LETTER;
    let mut places = HashMap::from([("input", (MARGIN, MARGIN + ROW))]);
    let (mut lines, mut boxes) = (String::new(), String::new());
    let mut rightmost = 0;
    let mut draw = |(x, y): (usize, usize), text: &str, colour: &str| {
        write!(
            boxes,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{wide}\" height=\"{HEIGHT}\" rx=\"3\" fill=\"{colour}\" stroke=\"#555\"/>\n\
             <text x=\"{}\" y=\"{}\">{}</text>\n",
            x + 6,
            y + 14,
            escape(text)
        )
        .expect("writing to a string does not fail");
    };
    draw(places["input"], &format!("input  1\u{d7}{}", extents(&outline.shape)), "#eee");
    for (ix, layer) in outline.layers.iter().enumerate() {
        let (x, y) = (MARGIN + level(layer) * (wide + GAP), MARGIN + (ix + 2) * ROW);
        rightmost = rightmost.max(x);
        draw((x, y), &label(layer), colour(&layer.op));
        for from in layer.inputs.iter().filter_map(|input| places.get(input.as_str())) {
            // To the next layer straight on; past others round their right sides.
            let path = if y == from.1 + ROW {
                format!("M{} {} L{} {y}", from.0 + wide / 2, from.1 + HEIGHT, x + wide / 2)
            } else {
                let (x1, y1, x2, y2) = (from.0 + wide, from.1 + HEIGHT / 2, x + wide, y + HEIGHT / 2);
                let round = x1.max(x2) + GAP;
                format!("M{x1} {y1} C{round} {y1} {round} {y2} {x2} {y2}")
            };
            writeln!(lines, "<path d=\"{path}\"/>").expect("writing to a string does not fail");
        }
        places.insert(&layer.name, (x, y));
    }
    let (width, height) = (rightmost + wide + 2 * MARGIN, 2 * MARGIN + (outline.layers.len() + 2) * ROW);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{MARGIN}\" y=\"{MARGIN}\" font-weight=\"bold\">{}: {} GFLOP, {} MiB</text>\n\
         <g fill=\"none\" stroke=\"#999\">\n{lines}</g>\n{boxes}</svg>\n",
        escape(name),
        (outline.flops / 1e9).round(),
        outline.bytes >> 20
    )
}

/// By what a layer does.
fn colour(op: &str) -> &'static str {
    match op {
        "conv3d" => "#cfe2f3",
        "conv_transpose3d" | "upsample" | "depth_to_space" => "#d9ead3",
        "max_pool3d" | "space_to_depth" => "#f4cccc",
        "add" => "#fff2cc",
        _ => "#eee",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
