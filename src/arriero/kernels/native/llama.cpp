// One step of a LLaMA on a CPU: the new tokens of many rows through all layers at once, without Python in between.
//
// The same function as arriero.model.transformer, with packed matrices; tests hold it against that file.
#include <new>

#include "attention.h"
#include "packed.h"
#include "pool.h"

using namespace arriero;

extern "C" {

struct Layer {
    const float *attention_norm, *ffn_norm;  // (C)
    Matrix wq, wk, wv, wo, w1, w2, w3;
};

struct Model {
    int64_t n_layers, dim, n_heads, n_kv_heads, head_dim, hidden_dim;
    float norm_eps;
    const float* embeddings;   // (V, C)
    const float* norm;         // (C)
    const float *cos, *sin;    // (positions, D/2)
    const Layer* layers;
    Matrix output;
};

struct Step {
    int64_t tokens, spans, wanted;
    const int32_t* ids;        // (tokens)
    const int32_t* positions;  // (tokens)
    const int32_t* slots;      // (tokens) page * PAGE + place in the page
    const Span* span;          // (spans)
    const int32_t* wanted_at;  // (wanted) tokens whose logits are asked for
    uint16_t *k, *v;           // (L, P, K, PAGE, D) fp16
    int64_t pages;             // P
    float* logits;             // (wanted, rows of output)
};

}  // extern "C"

namespace {

// What the threads of a step share.
struct Workspace {
    int64_t room = 0;
    std::vector<float> x, normed, q, k, v, attended, hidden, input_scales, input_sums, hidden_scales, hidden_sums;
    std::vector<int8_t> input_codes, hidden_codes;

    Inputs inputs(int64_t columns) { return {input_codes.data(), input_scales.data(), input_sums.data(), columns}; }
    Inputs hiddens(int64_t columns) { return {hidden_codes.data(), hidden_scales.data(), hidden_sums.data(), columns}; }

    void reserve(const Model& m, int64_t tokens) {
        if (tokens <= room) return;
        const int64_t heads = m.n_heads * m.head_dim, kv = m.n_kv_heads * m.head_dim;
        x.resize(tokens * m.dim);
        normed.resize(tokens * m.dim);
        q.resize(tokens * heads);
        attended.resize(tokens * heads);
        k.resize(tokens * kv);
        v.resize(tokens * kv);
        hidden.resize(tokens * m.hidden_dim);
        const int64_t widest = m.dim > heads ? m.dim : heads;
        input_codes.resize(tokens * widest / GROUP * BYTES);
        input_scales.resize(tokens * widest / GROUP);
        input_sums.resize(tokens * widest / GROUP);
        hidden_codes.resize(tokens * m.hidden_dim / GROUP * BYTES);
        hidden_scales.resize(tokens * m.hidden_dim / GROUP);
        hidden_sums.resize(tokens * m.hidden_dim / GROUP);
        room = tokens;
    }
};

// Rotary positions, Hugging Face's layout: dims i and i + D/2 are a pair.
void rotate(float* x, int64_t heads, int64_t dim, const float* cos, const float* sin) {
    for (int64_t h = 0; h < heads; h++, x += dim) {
        for (int64_t i = 0; i < dim / 2; i++) {
            const float a = x[i], b = x[i + dim / 2];
            x[i] = a * cos[i] - b * sin[i];
            x[i + dim / 2] = b * cos[i] + a * sin[i];
        }
    }
}

class Runner {
  public:
    Runner(const Model& model, int threads) : m_(model), pool_(threads) {}

    void run(const Step& step) {
        const std::lock_guard<std::mutex> one(pool_.busy);
        s_ = &step;
        w_.reserve(m_, step.tokens > step.wanted ? step.tokens : step.wanted);
        for (int64_t n = 0; n < step.tokens; n++)
            std::memcpy(&w_.x[n * m_.dim], m_.embeddings + step.ids[n] * m_.dim, m_.dim * sizeof(float));
        for (int64_t layer = 0; layer < m_.n_layers; layer++) {
            attention(m_.layers[layer], layer);
            feed_forward(m_.layers[layer]);
        }
        output();
    }

  private:
    // h = x + Wo attention(norm x)
    void attention(const Layer& layer, int64_t number) {
        const int64_t heads = m_.n_heads * m_.head_dim, kv_heads = m_.n_kv_heads * m_.head_dim, tokens = s_->tokens;
        Inputs inputs = w_.inputs(m_.dim), attended = w_.inputs(heads);
        each_token(tokens, [&](int64_t n) { normalise(&w_.x[n * m_.dim], layer.attention_norm, n, inputs); });
        const int64_t q_tiles = layer.wq.rows / LANES, k_tiles = layer.wk.rows / LANES;
        pool_.each(q_tiles + 2 * k_tiles, [&](int64_t begin, int64_t end) {
            for (int64_t tile = begin; tile < end; tile++) {
                if (tile < q_tiles)
                    project(layer.wq, tile, inputs, w_.q.data());
                else if (tile < q_tiles + k_tiles)
                    project(layer.wk, tile - q_tiles, inputs, w_.k.data());
                else
                    project(layer.wv, tile - q_tiles - k_tiles, inputs, w_.v.data());
            }
        });
        const Pages<uint16_t> pages = pages_of(number);
        each_token(tokens, [&](int64_t n) {
            const int64_t turn = s_->positions[n] * (m_.head_dim / 2);
            rotate(&w_.q[n * heads], m_.n_heads, m_.head_dim, m_.cos + turn, m_.sin + turn);
            rotate(&w_.k[n * kv_heads], m_.n_kv_heads, m_.head_dim, m_.cos + turn, m_.sin + turn);
            keep(pages, n);
        });
        attend_all(pool_, pages, s_->span, s_->spans, 1 / std::sqrt(float(m_.head_dim)), w_.q.data(), w_.attended.data());
        each_token(tokens, [&](int64_t n) { quantise(&w_.attended[n * heads], n, attended); });
        add_projection(layer.wo, attended);
    }

    // out = h + W2 (silu(W1 norm h) * W3 norm h)
    void feed_forward(const Layer& layer) {
        const int64_t tokens = s_->tokens, hidden = m_.hidden_dim;
        Inputs inputs = w_.inputs(m_.dim), hiddens = w_.hiddens(hidden);
        each_token(tokens, [&](int64_t n) { normalise(&w_.x[n * m_.dim], layer.ffn_norm, n, inputs); });
        pool_.each(layer.w1.rows / LANES, [&](int64_t begin, int64_t end) {
            for (int64_t tile = begin; tile < end; tile++) {
                float* column = w_.hidden.data() + tile * LANES;
                multiply(layer.w1, tile, inputs, tokens, [&](int64_t n, Floats a) { store(column + n * hidden, a); });
                multiply(layer.w3, tile, inputs, tokens, [&](int64_t n, Floats b) {
                    const Floats a = load<Floats>(column + n * hidden);
                    store(column + n * hidden, a / (exponential(-a) + 1.0f) * b);
                });
            }
        });
        each_token(tokens, [&](int64_t n) { quantise(&w_.hidden[n * hidden], n, hiddens); });
        add_projection(layer.w2, hiddens);
    }

    // The logits of the tokens that are asked for.
    void output() {
        Inputs inputs = w_.inputs(m_.dim);
        const int64_t wanted = s_->wanted, rows = m_.output.rows;
        each_token(wanted, [&](int64_t i) { normalise(&w_.x[s_->wanted_at[i] * m_.dim], m_.norm, i, inputs); });
        pool_.each(rows / LANES, [&](int64_t begin, int64_t end) {
            for (int64_t tile = begin; tile < end; tile++)
                multiply(m_.output, tile, inputs, wanted, [&](int64_t i, Floats out) {
                    store(s_->logits + i * rows + tile * LANES, out);
                });
        });
    }

    template <class Work>
    void each_token(int64_t tokens, const Work& work) {
        pool_.each(tokens, [&](int64_t begin, int64_t end) {
            for (int64_t n = begin; n < end; n++) work(n);
        });
    }

    // x / sqrt(mean x^2 + eps) * weight, rounded.
    void normalise(const float* x, const float* weight, int64_t token, Inputs& to) {
        Floats squares{};
        for (int64_t c = 0; c < to.columns; c += LANES) {
            const Floats part = load<Floats>(x + c);
            squares += part * part;
        }
        const float factor = 1.0f / std::sqrt(sum_of(squares) / float(to.columns) + m_.norm_eps);
        float* normed = &w_.normed[token * m_.dim];
        for (int64_t c = 0; c < to.columns; c += LANES)
            store(normed + c, load<Floats>(x + c) * factor * load<Floats>(weight + c));
        quantise(normed, token, to);
    }

    void project(const Matrix& w, int64_t tile, const Inputs& inputs, float* to) {
        multiply(w, tile, inputs, s_->tokens, [&](int64_t n, Floats out) { store(to + n * w.rows + tile * LANES, out); });
    }

    // x += W inputs
    void add_projection(const Matrix& w, const Inputs& inputs) {
        pool_.each(w.rows / LANES, [&](int64_t begin, int64_t end) {
            for (int64_t tile = begin; tile < end; tile++)
                multiply(w, tile, inputs, s_->tokens, [&](int64_t n, Floats out) {
                    float* x = &w_.x[n * m_.dim + tile * LANES];
                    store(x, load<Floats>(x) + out);
                });
        });
    }

    Pages<uint16_t> pages_of(int64_t layer) const {
        const int64_t size = s_->pages * m_.n_kv_heads * PAGE * m_.head_dim;
        return {s_->k + layer * size, s_->v + layer * size, m_.n_heads, m_.n_kv_heads, m_.head_dim};
    }

    void keep(const Pages<uint16_t>& pages, int64_t n) const {
        const int64_t page = s_->slots[n] / PAGE, place = (s_->slots[n] % PAGE) * m_.head_dim;
        for (int64_t h = 0; h < m_.n_kv_heads; h++) {
            const int64_t from = (n * m_.n_kv_heads + h) * m_.head_dim;
            for (int64_t d = 0; d < m_.head_dim; d += LANES) {
                store_as(pages.key(page, h) + place + d, load<Floats>(&w_.k[from + d]));
                store_as(pages.value(page, h) + place + d, load<Floats>(&w_.v[from + d]));
            }
        }
    }

    const Model& m_;
    Pool pool_;
    Workspace w_;
    const Step* s_ = nullptr;
};

// y (tokens, rows) = x (tokens, columns) W^T
void multiply_all(Pool& threads, const Matrix* w, const float* x, int64_t tokens, float* y) {
    std::vector<int8_t> codes(tokens * w->columns / GROUP * BYTES);
    std::vector<float> scales(tokens * w->columns / GROUP), sums(tokens * w->columns / GROUP);
    Inputs inputs{codes.data(), scales.data(), sums.data(), w->columns};
    const std::lock_guard<std::mutex> one(threads.busy);
    threads.each(tokens, [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; n++) quantise(x + n * w->columns, n, inputs);
    });
    threads.each(w->rows / LANES, [&](int64_t begin, int64_t end) {
        for (int64_t tile = begin; tile < end; tile++)
            multiply(*w, tile, inputs, tokens, [&](int64_t n, Floats out) {
                store(y + n * w->rows + tile * LANES, out);
            });
    });
}

// No exception may leave C: null tells that there was too little memory.
template <class Work>
void* attempt(const Work& work) {
    try {
        return work();
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

}  // namespace

extern "C" {

// `model` and all that it points to must outlive the runner.
void* arriero_open(const Model* model, int threads) {
    return attempt([&]() -> void* { return new Runner(*model, threads); });
}

void arriero_close(void* runner) { delete static_cast<Runner*>(runner); }

// Not null where it was done.
void* arriero_step(void* runner, const Step* step) {
    return attempt([&] {
        static_cast<Runner*>(runner)->run(*step);
        return runner;
    });
}

void* arriero_open_pool(int threads) {
    return attempt([&]() -> void* { return new Pool(threads); });
}

void arriero_close_pool(void* pool) { delete static_cast<Pool*>(pool); }

// y (tokens, rows) = x (tokens, columns) W^T
void* arriero_multiply(void* pool, const Matrix* w, const float* x, int64_t tokens, float* y) {
    return attempt([&] {
        multiply_all(*static_cast<Pool*>(pool), w, x, tokens, y);
        return pool;
    });
}

// Attention of all spans' tokens, whose keys lie in the pages already, fp32. q and out (tokens, H, D).
void* arriero_attend(
    void* pool, const Span* spans, int64_t count, float* k, float* v, int64_t heads, int64_t kv_heads, int64_t dim,
    float scale, const float* q, float* out) {
    return attempt([&] {
        Pool& threads = *static_cast<Pool*>(pool);
        const std::lock_guard<std::mutex> one(threads.busy);
        attend_all(threads, Pages<float>{k, v, heads, kv_heads, dim}, spans, count, scale, q, out);
        return pool;
    });
}

}  // extern "C"
