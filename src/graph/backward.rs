//! Reverse-mode differentiation: each operator's own backward rule, in reverse order.

use super::*;
use crate::ops::elementwise::Add;

impl Graph {
    /// Adds the nodes that compute the gradient of `loss` by each of `wrt`, given the gradient `seed`
    /// by the loss itself (same shape as the loss; a constant 1 for a plain loss).
    /// Values that do not influence the loss are absent from the result.
    ///
    /// # Errors
    /// Shapes that a gradient operator refuses.
    pub fn backward(
        &mut self,
        loss: ValueId,
        seed: ValueId,
        wrt: &[ValueId],
    ) -> Result<HashMap<ValueId, ValueId>, GraphError> {
        let forward_nodes = self.nodes.len();
        let mut needs = vec![false; self.values.len()];
        for value in wrt {
            needs[value.0] = true;
        }
        for node in &self.nodes {
            if node.inputs.iter().any(|v| needs[v.0]) {
                for output in &node.outputs {
                    needs[output.0] = true;
                }
            }
        }
        let mut grads: HashMap<ValueId, ValueId> = HashMap::from([(loss, seed)]);
        let scope = self.scope.clone();
        for ix in (0..forward_nodes).rev() {
            let node = self.nodes[ix].clone();
            let grad_outputs: Vec<Option<ValueId>> =
                node.outputs.iter().map(|v| grads.get(v).copied()).collect();
            let input_needs: Vec<bool> = node.inputs.iter().map(|v| needs[v.0]).collect();
            if grad_outputs.iter().all(Option::is_none) || !input_needs.contains(&true) {
                continue;
            }
            self.scope = format!("{}.backward", node.name);
            let io = NodeIo {
                inputs: &node.inputs,
                outputs: &node.outputs,
                grad_outputs: &grad_outputs,
                needs: &input_needs,
            };
            let input_grads = node
                .op
                .backward(self, &io)
                .map_err(|source| GraphError::Op { node: self.scope.clone(), source })?;
            for ((input, needed), grad) in node.inputs.iter().zip(input_needs).zip(input_grads) {
                let (Some(grad), true) = (grad, needed) else { continue };
                let total = match grads.get(input) {
                    Some(&earlier) => self.apply1(Add, &[earlier, grad])?,
                    None => grad,
                };
                grads.insert(*input, total);
            }
        }
        self.scope = scope;
        grads.retain(|value, _| wrt.contains(value));
        Ok(grads)
    }
}
