// One step of a LLaMA on a CPU: the new tokens of many rows through all layers at once, without Python in between.
//
// The same function as arriero.model.transformer, with packed matrices; tests hold it against that file. Its threads go
// through the stages of a layer side by side and meet at a barrier after each.
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
    std::vector<float> x, q, k, v, attended, hidden, input_scales, input_sums, hidden_scales, hidden_sums;
    std::vector<int8_t> input_codes, hidden_codes;

    Inputs inputs(int64_t columns) { return {input_codes.data(), input_scales.data(), input_sums.data(), columns}; }
    Inputs hiddens(int64_t columns) { return {hidden_codes.data(), hidden_scales.data(), hidden_sums.data(), columns}; }

    void reserve(const Model& m, int64_t tokens) {
        if (tokens <= room) return;
        room = tokens;
        const int64_t heads = m.n_heads * m.head_dim, kv = m.n_kv_heads * m.head_dim;
        x.resize(tokens * m.dim);
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
    }
};

// x / sqrt(mean x^2 + eps) * weight, rounded to 15 bits.
void normalise(const float* x, const float* weight, float eps, float* scratch, int64_t token, Inputs& to) {
    Floats squares{};
    for (int64_t c = 0; c < to.columns; c += LANES) {
        const Floats part = load<Floats>(x + c);
        squares += part * part;
    }
    const float factor = 1.0f / std::sqrt(sum_of(squares) / float(to.columns) + eps);
    for (int64_t c = 0; c < to.columns; c += LANES)
        store(scratch + c, load<Floats>(x + c) * factor * load<Floats>(weight + c));
    quantise(scratch, token, to);
}

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
        const std::lock_guard<std::mutex> one(stepping_);
        s_ = &step;
        work_.reserve(m_, step.tokens > step.wanted ? step.tokens : step.wanted);
        pool_.run([this](int me) { walk(me); });
    }

  private:
    void walk(int me) {
        const Step& s = *s_;
        const Range own = pool_.share(me, s.tokens);
        for (int64_t n = own.begin; n < own.end; n++)
            std::memcpy(&work_.x[n * m_.dim], m_.embeddings + s.ids[n] * m_.dim, m_.dim * sizeof(float));
        for (int64_t layer = 0; layer < m_.n_layers; layer++) {
            attention(me, own, m_.layers[layer], layer);
            feed_forward(me, own, m_.layers[layer]);
        }
        output(me);
    }

    // h = x + Wo attention(norm x)
    void attention(int me, Range own, const Layer& layer, int64_t number) {
        const int64_t q_dim = m_.n_heads * m_.head_dim, kv_dim = m_.n_kv_heads * m_.head_dim;
        Inputs inputs = work_.inputs(m_.dim), attended = work_.inputs(q_dim);
        std::vector<float> scratch(m_.dim);
        for (int64_t n = own.begin; n < own.end; n++)
            normalise(&work_.x[n * m_.dim], layer.attention_norm, m_.norm_eps, scratch.data(), n, inputs);
        pool_.barrier();
        project(me, layer.wq, inputs, work_.q.data());
        project(me, layer.wk, inputs, work_.k.data());
        project(me, layer.wv, inputs, work_.v.data());
        pool_.barrier();
        const Pages<uint16_t> pages = pages_of(number);
        for (int64_t n = own.begin; n < own.end; n++) {
            const int64_t turn = s_->positions[n] * (m_.head_dim / 2);
            rotate(&work_.q[n * q_dim], m_.n_heads, m_.head_dim, m_.cos + turn, m_.sin + turn);
            rotate(&work_.k[n * kv_dim], m_.n_kv_heads, m_.head_dim, m_.cos + turn, m_.sin + turn);
            keep(pages, n);
        }
        pool_.barrier();
        attend_share(
            me, pool_.count(), pages, s_->span, s_->spans, 1.0f / std::sqrt(float(m_.head_dim)), work_.q.data(),
            work_.attended.data());
        pool_.barrier();
        for (int64_t n = own.begin; n < own.end; n++) quantise(&work_.attended[n * q_dim], n, attended);
        pool_.barrier();
        add_projection(me, layer.wo, attended);
        pool_.barrier();
    }

    // out = h + W2 (silu(W1 norm h) * W3 norm h)
    void feed_forward(int me, Range own, const Layer& layer) {
        const int64_t tokens = s_->tokens, hidden = m_.hidden_dim;
        Inputs inputs = work_.inputs(m_.dim), hiddens = work_.hiddens(hidden);
        std::vector<float> scratch(m_.dim);
        for (int64_t n = own.begin; n < own.end; n++)
            normalise(&work_.x[n * m_.dim], layer.ffn_norm, m_.norm_eps, scratch.data(), n, inputs);
        pool_.barrier();
        const Range tiles = pool_.share(me, layer.w1.rows / LANES);
        for (int64_t tile = tiles.begin; tile < tiles.end; tile++) {
            float* column = work_.hidden.data() + tile * LANES;
            multiply(layer.w1, tile, inputs, tokens, [&](int64_t n, Floats a) { store(column + n * hidden, a); });
            multiply(layer.w3, tile, inputs, tokens, [&](int64_t n, Floats b) {
                const Floats a = load<Floats>(column + n * hidden);
                store(column + n * hidden, a / (exponential(-a) + 1.0f) * b);
            });
        }
        pool_.barrier();
        for (int64_t n = own.begin; n < own.end; n++) quantise(&work_.hidden[n * hidden], n, hiddens);
        pool_.barrier();
        add_projection(me, layer.w2, hiddens);
        pool_.barrier();
    }

    // The logits of the tokens that are asked for.
    void output(int me) {
        const Step& s = *s_;
        Inputs inputs = work_.inputs(m_.dim);
        std::vector<float> scratch(m_.dim);
        const Range own = pool_.share(me, s.wanted);
        for (int64_t i = own.begin; i < own.end; i++)
            normalise(&work_.x[s.wanted_at[i] * m_.dim], m_.norm, m_.norm_eps, scratch.data(), i, inputs);
        pool_.barrier();
        const Range tiles = pool_.share(me, m_.output.rows / LANES);
        for (int64_t tile = tiles.begin; tile < tiles.end; tile++)
            multiply(m_.output, tile, inputs, s.wanted, [&](int64_t i, Floats out) {
                store(s.logits + i * m_.output.rows + tile * LANES, out);
            });
    }

    void project(int me, const Matrix& w, const Inputs& inputs, float* to) {
        const Range tiles = pool_.share(me, w.rows / LANES);
        for (int64_t tile = tiles.begin; tile < tiles.end; tile++)
            multiply(w, tile, inputs, s_->tokens, [&](int64_t n, Floats out) {
                store(to + n * w.rows + tile * LANES, out);
            });
    }

    void add_projection(int me, const Matrix& w, const Inputs& inputs) {
        const Range tiles = pool_.share(me, w.rows / LANES);
        for (int64_t tile = tiles.begin; tile < tiles.end; tile++)
            multiply(w, tile, inputs, s_->tokens, [&](int64_t n, Floats out) {
                float* x = &work_.x[n * m_.dim + tile * LANES];
                store(x, load<Floats>(x) + out);
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
                store_as(pages.key(page, h) + place + d, load<Floats>(&work_.k[from + d]));
                store_as(pages.value(page, h) + place + d, load<Floats>(&work_.v[from + d]));
            }
        }
    }

    const Model& m_;
    Pool pool_;
    std::mutex stepping_;
    Workspace work_;
    const Step* s_ = nullptr;
};

}  // namespace

extern "C" {

// `model` and all that it points to must outlive the runner.
void* arriero_open(const Model* model, int threads) { return new Runner(*model, threads); }

void arriero_close(void* runner) { delete static_cast<Runner*>(runner); }

void arriero_step(void* runner, const Step* step) { static_cast<Runner*>(runner)->run(*step); }

void* arriero_open_pool(int threads) { return new Pool(threads); }

void arriero_close_pool(void* pool) { delete static_cast<Pool*>(pool); }

// y (tokens, rows) = x (tokens, columns) W^T
void arriero_multiply(void* pool, const Matrix* w, const float* x, int64_t tokens, float* y) {
    Pool& threads = *static_cast<Pool*>(pool);
    std::vector<int8_t> codes(tokens * w->columns / GROUP * BYTES);
    std::vector<float> scales(tokens * w->columns / GROUP), sums(tokens * w->columns / GROUP);
    Inputs inputs{codes.data(), scales.data(), sums.data(), w->columns};
    threads.run([&](int me) {
        const Range own = threads.share(me, tokens), tiles = threads.share(me, w->rows / LANES);
        for (int64_t n = own.begin; n < own.end; n++) quantise(x + n * w->columns, n, inputs);
        threads.barrier();
        for (int64_t tile = tiles.begin; tile < tiles.end; tile++)
            multiply(*w, tile, inputs, tokens, [&](int64_t n, Floats out) {
                store(y + n * w->rows + tile * LANES, out);
            });
    });
}

// Attention of all spans' tokens, whose keys lie in the pages already, fp32. q and out (tokens, H, D).
void arriero_attend(
    void* pool, const Span* spans, int64_t count, float* k, float* v, int64_t heads, int64_t kv_heads, int64_t dim,
    float scale, const float* q, float* out) {
    Pool& threads = *static_cast<Pool*>(pool);
    const Pages<float> pages{k, v, heads, kv_heads, dim};
    threads.run([&](int me) { attend_share(me, threads.count(), pages, spans, count, scale, q, out); });
}

}  // extern "C"
