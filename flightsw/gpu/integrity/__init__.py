"""Integrity of computing: damage is looked for in memory and in results, and what is damaged does not get out.

Begin with ``protect``, one call for a module and its optimiser, and with ``flightsw/gpu/README.md``: which fault is
caught where. This is the map of the rest, each module once. Groups go by what they guard; within a group, what is
made of others comes after them.

What ties it together

    protect                     the one call, and the guard that it gives
    held_module                 a module whose forward is a pass; nobody else may protect it meanwhile
    pass_looks                  which pass is looked at, how it begins and ends
    protected_state             memory of module and optimiser: verified before an update, adopted after it
    step_hooks                  steps of a torch optimiser: what is refused before one, taken anew after it
    coverage                    what of a module is covered by what, and what is not
    levels                      what each level asks for: a table
    verdicts                    what is looked at in a pass; a verdict becomes a finding, here only
    finding                     one detector's word, and what became of it
    tally                       findings and checks of a worker, added up for the daemon

Memory at rest

    digest                      three sums of a block: definition, proofs, plain form
    damage                      what the difference of two digests says; a word is put back
    sums                        digests are kept twice
    regions                     which memory is guarded, under which name
    layout                      where the blocks of regions are
    owner                       what became of a region in the hands of its owner
    closer                      one block that does not match: what happened to it
    resident                    all of it: adopted, verified, repaired
    scrub                       block after block, at a share of the time that work takes
    kv_slots                    sums of the slots of a key-value cache
    kv                          rows of a cache, summed as they are written
    kv_caches                   caches that tell what is written
    adamw_slot                  what an update that verifies as it reads needs of a parameter
    guarded_adamw               that update

Operations: how each is covered, and seen

    operations                  which operator is covered how: a table
    plans                       what is done about an operator
    results                     operands and results: found in lists, compared by bits, put back
    checked                     the dispatch mode that sees a pass operation by operation

Results on their way

    transit                     digested by the producer, verified by the consumer
    watch                       the same, as the operations of a pass meet it
    reading                     digests that come by the way of another reading
    late_looks                  how operations of a pass without gradients are looked at late: a table
    late_rows                   looks that are addresses and numbers only, made by one call
    tape                        such operations are noted, and looked at a little later
    told                        operations that a model hands over by name

Matrix products

    products                    y = β c + α x w, whatever operator computes it
    weights                     resident weights as products use them: names, sums
    checksum                    rows of a product against the sums of its operands
    gradients                   one reading of a gradient for the three operations that read it
    product_check               products in a pass: computed, checked, done again

Everything else

    repetition                  done twice, compared, two of three win
    gelu                        GELU's backward operation, whose identity covers the forward one
    identities                  what results have to be, each read once
    owed                        checks that a forward operation owes to its backward one
    debts                       what is still owed is paid in time
    done_once                   what obeys identities, and what nothing can be held against
    accumulation                sums in place: gradients over several passes
    changes                     what writes into memory that was there before

Attention

    attention                   its backward pass, by identities
    forward_attention           its forward pass in serving
    attention_log               decode steps, looked at many steps later, before an answer leaves

Statistics and votes: what no operation shows

    ranges                      how large a layer's results are in clean passes
    calibration                 bounds of a module's layers: learnt, then held
    training_guard              whether a step looks like the steps before it
    votes                       when a step is run again, and which run counts

Kernels: which there are, and for the card (Triton)

    kernels                     the one place that asks for them
    kernels_digest              digests
    kernels_adamw               the update that verifies as it reads
    kernels_gemm                the product that is checked before it is rounded

Kernels for the processor (Numba): tools

    native                      how one is made
    native_vectors              exp, the largest of a row, memory asked for ahead
    native_registers            vectors in registers, words of LLVM
    native_lanes                sums of words in registers
    native_tiles                products of some rows with many
    native_across               sums along several rows at a time

Kernels for the processor: checks

    native_digest               digests of memory
    native_slots                sums of cache slots
    native_transit              digests of results
    native_adamw                the update, compared before it is written
    native_rows                 products
    native_product              which products, and how: their torch side
    native_gradient             the products of a backward pass, at one reading
    native_pointwise            sums, products, GELU
    native_norm                 layer norms, sums over rows
    native_late                 what was noted on the tape
    native_table                what was put down in rows
    native_attention            attention's backward pass
    native_attention_table      attention's forward pass: what its forms share
    native_attention_exact      every element of a result
    native_attention_mask       what a chunk of a prompt sees
    native_weighing             softmax of a vector of rows
    native_attention_products   scores, and a vector's way through results, values and keys
    native_attention_verdict    whether a projection may be what its operands give
    native_attention_projected  a projection of every row
"""
